"""The commands of a noun, made from its entry in `nouns.py` and from its Struct.

`list show create set delete`, the default of a parent, and what else the noun can do. A thin
client of `/api/v1`: whatever needs judgement is the server's.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from appliance.cli.arguments import (
    Decorator,
    Given,
    apply,
    complete,
    field_options,
    query_of,
    query_options,
    writable,
)
from appliance.cli.client import V1, Answer, ApiClient, segment
from appliance.cli.exit_code import ExitCode
from appliance.cli.failure import NoAnswer, Refused, tell
from appliance.cli.lookup import Lookup, path_of
from appliance.cli.noun import Action, Noun, Reading
from appliance.cli.nouns import NOUNS
from appliance.cli.options import output, remote
from appliance.cli.output import Column, Format, Item, field, show_list, show_one
from appliance.cli.plan import Step, body_of, compare, show_plan
from appliance.cli.progress import progress
from appliance.cli.shape import Field, columns_of, fields_of, load
from appliance.core.errors import Conflict, Invalid
from appliance.core.text import escape_controls

R = TypeVar("R")

_CREATE_S: Final = 1800.0  # as long as the server tries: a template is downloaded
_OPERATION: Final = (field("OPERATION", "operation"), field("STATE", "state"))


@dataclass(frozen=True, slots=True)
class Show:
    """How the user wants answers."""

    form: Format
    quiet: bool


@dataclass(frozen=True, slots=True)
class Change:
    """How the user wants changes made."""

    plan: bool
    wait: bool

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.wait else {"prefer": "respond-async"}


def noun_group(noun: Noun) -> click.Group:
    """Return all commands of a noun."""
    group = click.Group(noun.name, help=noun.about)
    kit = _Kit(noun, fields_of(load(noun.struct), noun.sizes))
    for command in (
        _list(kit),
        _show(kit),
        _create(kit),
        _set(kit),
        _delete(kit),
        *([_default(kit)] if noun.default_of else []),
        *(_reading(kit, reading) for reading in noun.readings),
        *(_action(kit, action) for action in noun.actions),
    ):
        group.add_command(command)
    return group


@dataclass(frozen=True, slots=True)
class _Kit:
    """A noun and what is known about its Struct."""

    noun: Noun
    fields: tuple[Field, ...]

    @property
    def columns(self) -> list[Column]:
        return columns_of(self.fields, self.noun.columns, self.noun.secrets)

    def show(self, item: Item, show: Show) -> None:
        _show_item(item, self.columns, show, "name")

    def label(self, item: Item) -> str:
        return escape_controls(f"{self.noun.name} {item['name']} ({item['id']})")

    def command(
        self,
        verb: str,
        about: str,
        example: str,
        callback: Callable[..., Any],
        options: Sequence[Decorator],
    ) -> click.Command:
        for option in reversed(options):
            callback = option(callback)
        text = f"Example: kowabunga {self.noun.name} {verb} {example}".rstrip()
        return click.command(verb, help=about, epilog=text, short_help=about)(callback)


def _list(kit: _Kit) -> click.Command:
    noun = kit.noun
    nouns = dict.fromkeys(name for below in noun.lists for name in below)

    @_shown
    @remote
    def call(client: ApiClient, /, show: Show, **given: Any) -> None:  # noqa: ANN401
        lookup = Lookup(client)
        ids = lookup.list_ids(_list_path(lookup, noun, given))
        if show.quiet:
            for object_id in ids:
                click.echo(escape_controls(object_id))
        else:
            show_list(lookup.read_all(noun, ids), kit.columns, show.form, "name")

    filters = [_parent_option(name, required=False, about="Only those of it.") for name in nouns]
    about = f"List {noun.plural_name}."
    return kit.command("list", about, "-o wide", call, filters)


def _list_path(lookup: Lookup, noun: Noun, given: Given) -> str:
    """Return the path of the list that the filters ask for.

    Raises:
        Invalid: no list is below just these.
    """
    wanted = {name for below in noun.lists for name in below if given[f"parent_{name}"]}
    if not wanted:
        return f"{V1}/{noun.name}"
    for below in noun.lists:
        if wanted == set(below):
            return _below(lookup, below, given) + noun.plural_name
    choices = " or ".join(" with ".join(f"--{name}" for name in below) for below in noun.lists)
    raise Invalid(f"{noun.plural_name} can be listed by {choices}")


def _show(kit: _Kit) -> click.Command:
    @_shown
    @remote
    def call(client: ApiClient, /, show: Show, text: str, **given: Any) -> None:  # noqa: ANN401
        lookup = Lookup(client)
        kit.show(lookup.read(kit.noun, _resolve(lookup, kit.noun, text, given)), show)

    about = f"Show one {kit.noun.name}."
    options = [_named(kit.noun), *_scope(kit.noun)]
    return kit.command("show", about, kit.noun.example_name, call, options)


def _create(kit: _Kit) -> click.Command:
    noun, fields = kit.noun, writable(kit.fields)

    @_changing
    @_shown
    @functools.partial(remote, timeout_s=_CREATE_S)
    def call(
        client: ApiClient,
        /,
        show: Show,
        change: Change,
        name: str,
        **given: Any,  # noqa: ANN401
    ) -> ExitCode:
        lookup = Lookup(client)
        path = _below(lookup, noun.below, given)
        body = complete(fields, apply(lookup, noun, fields, given, {"name": name}))
        query = query_of(lookup, noun.queries, given)
        if change.plan:
            _refuse_taken(lookup, noun, name, path)
            changes = compare(noun, kit.fields, {}, body)
            return show_plan(
                noun, [Step("create", noun.name, name, None, changes)], show.form, quiet=show.quiet
            )
        with progress(f"create {noun.name} {name}"):
            answer = client.send(
                "POST", path + noun.name, body=body, query=query, headers=change.headers
            )
        _told(kit, answer, show)
        return ExitCode.DONE

    options: list[Decorator] = [
        click.argument("name"),
        *(
            _parent_option(parent, required=True, about="Where it is made.")
            for parent in noun.below
        ),
        *field_options(noun, fields, making=True),
        *query_options(noun.queries),
    ]
    return kit.command("create", f"Create a new {noun.name}.", noun.example, call, options)


def _refuse_taken(lookup: Lookup, noun: Noun, name: str, path: str) -> None:
    """Raise Conflict if the name is taken, as the server would."""
    below = path + noun.plural_name if noun.scoped else ""
    taken = lookup.find(noun, name, below=below)
    if taken:
        raise Conflict(f"{noun.name} {name!r} exists already as {taken[0]}")


def _set(kit: _Kit) -> click.Command:
    noun, fields = kit.noun, writable(kit.fields)

    @_changing
    @_shown
    @remote
    def call(
        client: ApiClient,
        /,
        show: Show,
        change: Change,
        text: str,
        **given: Any,  # noqa: ANN401
    ) -> ExitCode:
        lookup = Lookup(client)
        object_id = _resolve(lookup, noun, text, given)
        stored = lookup.read(noun, object_id)
        wanted = apply(lookup, noun, fields, given, stored)
        changes = compare(noun, kit.fields, stored, wanted)
        if change.plan:
            step = Step("set", noun.name, stored["name"], object_id, changes)
            return show_plan(noun, [step] if changes else [], show.form, quiet=show.quiet)
        if not changes:
            kit.show(stored, show)
            return ExitCode.DONE
        body = body_of(fields, wanted, changes)
        with progress(f"set {kit.label(stored)}"):
            answer = client.send("PUT", path_of(noun, object_id), body=body, headers=change.headers)
        _told(kit, answer, show)
        return ExitCode.DONE

    options = [_named(noun), *_scope(noun), *field_options(noun, fields, making=False)]
    about = f"Change a {noun.name}: what is not given stays, an empty text clears."
    example = f"{noun.example_name} --description 'Looked after by Ada'"
    return kit.command("set", about, example, call, options)


def _delete(kit: _Kit) -> click.Command:
    noun = kit.noun

    @_changing
    @_shown
    @remote
    def call(
        client: ApiClient,
        /,
        show: Show,
        change: Change,
        texts: tuple[str, ...],
        **given: Any,  # noqa: ANN401
    ) -> ExitCode:
        lookup = Lookup(client)
        # All are found before the first goes.
        ids = dict.fromkeys(_resolve(lookup, noun, text, given) for text in texts)
        items = [lookup.read(noun, object_id) for object_id in ids]
        if change.plan:
            steps = [Step("delete", noun.name, item["name"], item["id"]) for item in items]
            return show_plan(noun, steps, show.form, quiet=show.quiet)
        codes = [_delete_one(client, kit, item, show, change) for item in items]
        return next((code for code in codes if code is not ExitCode.DONE), ExitCode.DONE)

    options: list[Decorator] = [
        click.argument("texts", metavar=noun.name.upper(), nargs=-1, required=True),
        *_scope(noun),
    ]
    about = f"Delete {noun.plural_name}; one that is refused keeps none of the others."
    return kit.command("delete", about, noun.example_name, call, options)


def _delete_one(client: ApiClient, kit: _Kit, item: Item, show: Show, change: Change) -> ExitCode:
    label = kit.label(item)
    try:
        with progress(f"delete {label}"):
            answer = client.send("DELETE", path_of(kit.noun, item["id"]), headers=change.headers)
    except (Refused, NoAnswer) as error:
        return tell(error, debug=False)
    if not _told_operation(answer, show):
        click.echo(f"deleted {label}", err=True)
    return ExitCode.DONE


def _default(kit: _Kit) -> click.Command:
    noun, parent = kit.noun, NOUNS[kit.noun.default_of]

    @_changing
    @_shown
    @remote
    def call(
        client: ApiClient,
        /,
        show: Show,
        change: Change,
        text: str,
        **given: Any,  # noqa: ANN401
    ) -> ExitCode:
        lookup = Lookup(client)
        above = _below(lookup, (parent.name,), given)
        object_id = lookup.resolve(noun, text, below=above + noun.plural_name)
        item = lookup.read(noun, object_id)
        if change.plan:
            step = Step("default", noun.name, item["name"], object_id)
            return show_plan(noun, [step], show.form, quiet=show.quiet)
        client.send("PATCH", f"{above}{noun.name}/{segment(object_id)}/default")
        kit.show(item, show)
        return ExitCode.DONE

    options: list[Decorator] = [
        _named(noun),
        _parent_option(parent.name, required=True, about="Whose default it becomes."),
    ]
    about = f"Make it the default of its {parent.name}, instead of the one before."
    example = f"{noun.example_name} --{parent.name} {parent.example_name}"
    return kit.command("default", about, example, call, options)


def _reading(kit: _Kit, reading: Reading) -> click.Command:
    noun, fields = kit.noun, fields_of(load(reading.struct), reading.sizes)

    @output
    @remote
    def call(client: ApiClient, form: Format, text: str) -> None:
        object_id = Lookup(client).resolve(noun, text)
        item = client.send("GET", f"{path_of(noun, object_id)}/{reading.verb}").body
        names = tuple(field.name for field in fields)
        show_one(item, columns_of(fields, names), form, names[0])

    return kit.command(reading.verb, reading.about, noun.example_name, call, [_named(noun)])


def _action(kit: _Kit, action: Action) -> click.Command:
    noun = kit.noun

    @_changing
    @_shown
    @remote
    def call(
        client: ApiClient,
        /,
        show: Show,
        change: Change,
        text: str,
        **given: Any,  # noqa: ANN401
    ) -> ExitCode:
        lookup = Lookup(client)
        object_id = lookup.resolve(noun, text)
        item = lookup.read(noun, object_id)
        path = path_of(noun, object_id)
        if change.plan:
            settled = action.settled and (
                client.send("GET", f"{path}/state").body["state"] == action.settled
            )
            step = Step(action.verb, noun.name, item["name"], object_id)
            return show_plan(noun, [] if settled else [step], show.form, quiet=show.quiet)
        query = query_of(lookup, action.queries, given)
        with progress(f"{action.verb} {kit.label(item)}"):
            answer = client.send(
                "PATCH", f"{path}/{action.verb}", query=query, headers=change.headers
            )
        if not _told_operation(answer, show) and action.struct:
            fields = fields_of(load(action.struct))
            _show_item(answer.body, columns_of(fields, ()), show, "name")
        return ExitCode.DONE

    options = [_named(noun), *query_options(action.queries)]
    return kit.command(action.verb, action.about, noun.example_name, call, options)


def _told(kit: _Kit, answer: Answer, show: Show) -> None:
    if not _told_operation(answer, show):
        kit.show(answer.body, show)


def _told_operation(answer: Answer, show: Show) -> bool:
    """Print the operation if the server answered with one because the work goes on."""
    if answer.status != 202:
        return False
    if show.quiet:
        click.echo(escape_controls(answer.body["operation"]))
    else:
        show_one(answer.body, _OPERATION, show.form, "operation")
    return True


def _show_item(item: Item, columns: Sequence[Column], show: Show, name: str) -> None:
    if show.quiet:
        click.echo(escape_controls(str(item["id"])))
    else:
        show_one(item, columns, show.form, name)


def _below(lookup: Lookup, nouns: Sequence[str], given: Given) -> str:
    """Return the path below the given parents, with a slash at its end."""
    path = V1
    for noun in nouns:
        (parent_id,) = lookup.resolve_all(noun, [given[f"parent_{noun}"]])
        path += f"/{noun}/{segment(parent_id)}"
    return path + "/"


def _scope(noun: Noun) -> list[Decorator]:
    """Return the options that say which one of the same name is meant."""
    if not noun.scoped:
        return []
    return [
        _parent_option(parent, required=False, about="Where it is, if others have its name.")
        for parent in noun.below
    ]


def _resolve(lookup: Lookup, noun: Noun, text: str, given: Given) -> str:
    scoped = noun.scoped and all(given[f"parent_{parent}"] for parent in noun.below)
    below = _below(lookup, noun.below, given) + noun.plural_name if scoped else ""
    return lookup.resolve(noun, text, below=below)


def _named(noun: Noun) -> Decorator:
    return click.argument("text", metavar=noun.name.upper())


def _parent_option(noun: str, *, required: bool, about: str) -> Decorator:
    return click.option(
        f"--{noun}", f"parent_{noun}", metavar=noun.upper(), required=required, help=about
    )


def _shown(command: Callable[..., R]) -> Callable[..., R]:
    """Add `-o` and `-q`; the command gets `show`."""

    @click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
    @functools.wraps(command)
    def with_show(*args: Any, form: Format, quiet: bool, **kwargs: Any) -> R:  # noqa: ANN401
        return command(*args, show=Show(form, quiet), **kwargs)

    return output(with_show)


def _changing(command: Callable[..., R]) -> Callable[..., R]:
    """Add `--plan` and `--no-wait`; the command gets `change`."""

    @click.option(
        "--wait/--no-wait",
        "wait",
        default=True,
        help="Wait until it is done (default), or print the operation that does it.",
    )
    @click.option("--plan", is_flag=True, help="Print what would change, and change nothing.")
    @functools.wraps(command)
    def with_change(*args: Any, plan: bool, wait: bool, **kwargs: Any) -> R:  # noqa: ANN401
        return command(*args, change=Change(plan, wait), **kwargs)

    return with_change
