"""Is the stored state sound? For `kowabunga state verify`; reads only, through any store.

Opening an SQLite store has checked the file's structure already. This looks at what is in it.
"""

from typing import Final

from appliance.core.errors import Corrupt
from appliance.store.base import Consistency, SqlValue, Statement, Store

_INTEGRITY: Final = Statement("SELECT integrity_check AS finding FROM pragma_integrity_check")
_REFERENCES: Final = Statement(
    "SELECT \"table\" || ' row ' || coalesce(rowid, '?') || ' refers to a row that is not in '"
    " || parent AS finding FROM pragma_foreign_key_check"
)
_GUARDS: Final = Statement(
    "SELECT 'txn_guard holds ' || count(*) || ' rows, and every batch that ends leaves none'"
    " AS finding FROM txn_guard HAVING count(*) > 0"
)


async def verify(store: Store) -> list[str]:
    """Return what is wrong, one sentence each; empty when all is well.

    Takes as long as reading everything, so open the store with a generous statement limit.
    """
    findings: list[SqlValue] = []
    for check in (_INTEGRITY, _REFERENCES, _GUARDS):
        try:
            rows = await store.query(check, Consistency.LINEARIZABLE)
        except Corrupt as damage:
            findings.append(damage.detail)
        else:
            findings += [row["finding"] for row in rows]
    # SQLite packs what it finds in the file's structure into one text of many lines.
    lines = [line for finding in findings for line in str(finding).splitlines()]
    return [line for line in lines if line != "ok"]
