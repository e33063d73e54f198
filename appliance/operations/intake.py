"""How a submission becomes an operation, or meets one that is there already.

Nothing is looked up before it is written: the store's constraints say what is in the way.
"""

from collections.abc import Callable, Sequence

from appliance.core.errors import Busy, Conflict, DeadlineExceeded, KowabungaError
from appliance.operations import sql
from appliance.operations.equipment import Equipment
from appliance.operations.operation import Origin
from appliance.operations.rows import Holder
from appliance.operations.runner import Runner
from appliance.operations.step import A, OnFailure, Submission
from appliance.store.base import Consistency, fetch


class Intake:
    def __init__(self, equipment: Equipment, runner: Runner, new_id: Callable[[], str]) -> None:
        self._equipment = equipment
        self._store = equipment.store
        self._clock = equipment.clock
        self._runner = runner
        self._new_id = new_id

    async def submit(self, submission: Submission[A]) -> str:
        """See `Engine.submit`."""
        self._check(submission)
        while True:
            operation_id = self._new_id()
            try:
                await self._create(operation_id, submission)
            except Conflict as clash:
                attached = await self._resolve(submission, clash)
                if attached is not None:
                    return attached
            else:
                return operation_id

    async def find_holder(self, targets: Sequence[str]) -> Holder | None:
        """Return who holds the first of the targets that is held."""
        held = await fetch(self._store, Holder, sql.holders(targets), Consistency.LINEARIZABLE)
        return held[0] if held else None

    def _check(self, submission: Submission[A]) -> None:
        """Refuse what only a fault of ours can ask for."""
        kind = submission.kind
        if self._equipment.kinds.get(kind.name) is not kind:
            raise ValueError(f"operation kind {kind.name} is not registered with this engine")
        if not submission.targets:
            raise ValueError(f"operation kind {kind.name}: an operation needs a target")
        if submission.origin is Origin.RECONCILE and kind.on_failure is OnFailure.UNDO:
            raise ValueError(f"operation kind {kind.name}: reconciliation never undoes")

    async def _create(self, operation_id: str, submission: Submission[A]) -> None:
        kind = submission.kind
        created = sql.create(
            operation_id,
            kind=kind.name,
            origin=submission.origin,
            principal=submission.principal,
            request_key=submission.request_key,
            arguments=submission.arguments,
            targets=submission.targets,
            engine_id=self._equipment.engine_id,
            budget_ms=round(kind.budget_s * 1000),
            now_ms=self._clock.now_ms(),
        )
        try:
            await self._runner.create(operation_id, [*created, *submission.statements])
        except DeadlineExceeded as late:
            try:
                written = await self._store.query(sql.by_id(operation_id), Consistency.LINEARIZABLE)
            except KowabungaError:
                written = []
            if not written:
                raise DeadlineExceeded(
                    f"operation {operation_id} may or may not have begun: {late.detail}",
                    hint=f"look at it with: kowabunga operation show {operation_id}",
                    operation=operation_id,
                ) from late
            self._runner.wake()  # it was written: the poll gives it a worker

    async def _resolve(self, submission: Submission[A], clash: Conflict) -> str | None:
        """Return the operation to attach to, or None when what was in the way is gone."""
        columns = clash.context.get("columns")
        if columns == "operation.request_key" and submission.request_key is not None:
            rows = await self._store.query(
                sql.by_request(submission.request_key), Consistency.LINEARIZABLE
            )
            return str(rows[0]["id"]) if rows else None
        if columns != "operation_target.target":
            raise clash
        holder = await self.find_holder(submission.targets)
        if holder is None:
            return None
        raise Busy(
            f"{holder.target} is being worked on by operation {holder.operation_id}",
            hint="wait for it, or cancel it",
            target=holder.target,
            operation=holder.operation_id,
            origin=holder.origin.value,
        ) from clash
