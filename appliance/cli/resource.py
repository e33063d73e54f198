"""The commands of a noun, made from its entry in `nouns.py` and from its Struct.

`list show create set delete`, the default of a parent, and what else the noun can do. A thin
client of `/api/v1`: whatever needs judgement is the server's.
"""

import functools
from typing import Any, Final

import click

from appliance.cli.actions import action_command, default_command, reading_command
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
from appliance.cli.client import V1, ApiClient
from appliance.cli.console import console_command
from appliance.cli.exit_code import ExitCode
from appliance.cli.failure import NoAnswer, Refused, tell
from appliance.cli.kit import (
    Kit,
    Manner,
    Show,
    changing,
    named,
    parent_option,
    path_below,
    resolve,
    scope,
    shown,
    told,
    told_operation,
)
from appliance.cli.lookup import Lookup, path_of
from appliance.cli.names import names_of
from appliance.cli.noun import Noun
from appliance.cli.options import remote
from appliance.cli.output import Item, show_list
from appliance.cli.plan import Step, body_of, compare, show_plan
from appliance.cli.progress import progress
from appliance.cli.shape import fields_of, load
from appliance.core.errors import Conflict, Invalid
from appliance.core.text import escape_controls

_CREATE_S: Final = 1800.0  # as long as the server tries: a template is downloaded


def noun_group(noun: Noun) -> click.Group:
    """Return all commands of a noun."""
    group = click.Group(noun.name, help=noun.about)
    kit = Kit(noun, fields_of(load(noun.struct), noun.sizes))
    for command in (
        _list(kit),
        _show(kit),
        _create(kit),
        _set(kit),
        _delete(kit),
        *([default_command(kit)] if noun.default_of else []),
        *(reading_command(kit, reading) for reading in noun.readings),
        *(action_command(kit, action) for action in noun.actions),
        *([console_command(kit)] if noun.has_console else []),
    ):
        group.add_command(command)
    return group


def _list(kit: Kit) -> click.Command:
    noun = kit.noun
    nouns = dict.fromkeys(name for parents in noun.lists for name in parents)

    @shown
    @remote
    def call(client: ApiClient, /, show: Show, **given: Any) -> None:  # noqa: ANN401
        lookup = Lookup(client)
        ids = lookup.list_ids(_list_path(lookup, noun, given))
        if show.quiet:
            for object_id in ids:
                click.echo(escape_controls(object_id))
        else:
            show_list(lookup.read_all(noun, ids), kit.columns, show.form, "name")

    filters = [parent_option(name, required=False, about="Only those of it.") for name in nouns]
    about = f"List {noun.plural_name}."
    return kit.command("list", about, "-o wide", call, filters)


def _list_path(lookup: Lookup, noun: Noun, given: Given) -> str:
    """Return the path of the list that the filters ask for.

    Raises:
        Invalid: no list is below just these.
    """
    wanted = {name for parents in noun.lists for name in parents if given[f"parent_{name}"]}
    if not wanted:
        return f"{V1}/{noun.name}"
    for parents in noun.lists:
        if wanted == set(parents):
            return path_below(lookup, parents, given) + noun.plural_name
    choices = " or ".join(" with ".join(f"--{name}" for name in parents) for parents in noun.lists)
    raise Invalid(f"{noun.plural_name} can be listed by {choices}")


def _show(kit: Kit) -> click.Command:
    @shown
    @remote
    def call(client: ApiClient, /, show: Show, text: str, **given: Any) -> None:  # noqa: ANN401
        lookup = Lookup(client)
        kit.show(lookup.read(kit.noun, resolve(lookup, kit.noun, text, given)), show)

    about = f"Show one {kit.noun.name}."
    options = [named(kit.noun), *scope(kit.noun)]
    return kit.command("show", about, kit.noun.example_name, call, options)


def _create(kit: Kit) -> click.Command:
    noun, fields = kit.noun, writable(kit.fields)

    @changing
    @shown
    @functools.partial(remote, timeout_s=_CREATE_S)
    def call(
        client: ApiClient,
        /,
        show: Show,
        manner: Manner,
        name: str,
        **given: Any,  # noqa: ANN401
    ) -> ExitCode:
        lookup = Lookup(client)
        path = path_below(lookup, noun.below, given)
        body = complete(fields, apply(lookup, noun, fields, given, {"name": name}))
        query = query_of(lookup, noun.queries, given)
        if manner.plan:
            _refuse_taken(lookup, noun, name, path)
            changes = compare(noun, kit.fields, {}, body)
            return show_plan(
                noun, [Step("create", noun.name, name, None, changes)], show.form, quiet=show.quiet
            )
        with progress(f"create {noun.name} {name}"):
            answer = client.send(
                "POST", path + noun.name, body=body, query=query, headers=manner.headers
            )
        told(kit, answer, show)
        return ExitCode.DONE

    options: list[Decorator] = [
        click.argument("name"),
        *(parent_option(parent, required=True, about="Where it is made.") for parent in noun.below),
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


def _set(kit: Kit) -> click.Command:
    noun, fields = kit.noun, writable(kit.fields)

    @changing
    @shown
    @remote
    def call(
        client: ApiClient,
        /,
        show: Show,
        manner: Manner,
        text: str,
        **given: Any,  # noqa: ANN401
    ) -> ExitCode:
        lookup = Lookup(client)
        object_id = resolve(lookup, noun, text, given)
        stored = lookup.read(noun, object_id)
        wanted = apply(lookup, noun, fields, given, stored)
        changes = compare(noun, kit.fields, stored, wanted)
        if manner.plan:
            step = Step("set", noun.name, stored["name"], object_id, changes)
            return show_plan(noun, [step] if changes else [], show.form, quiet=show.quiet)
        if not changes:
            kit.show(stored, show)
            return ExitCode.DONE
        body = body_of(fields, wanted, changes)
        with progress(f"set {kit.label(stored)}"):
            answer = client.send("PUT", path_of(noun, object_id), body=body, headers=manner.headers)
        told(kit, answer, show)
        return ExitCode.DONE

    options = [named(noun), *scope(noun), *field_options(noun, fields, making=False)]
    about = f"Change a {noun.name}: what is not given stays, an empty text clears."
    example = f"{noun.example_name} --description 'Looked after by Ada'"
    return kit.command("set", about, example, call, options)


def _delete(kit: Kit) -> click.Command:
    noun = kit.noun

    @changing
    @shown
    @remote
    def call(
        client: ApiClient,
        /,
        show: Show,
        manner: Manner,
        texts: tuple[str, ...],
        **given: Any,  # noqa: ANN401
    ) -> ExitCode:
        lookup = Lookup(client)
        # All are found before the first goes.
        ids = dict.fromkeys(resolve(lookup, noun, text, given) for text in texts)
        items = [lookup.read(noun, object_id) for object_id in ids]
        if manner.plan:
            steps = [Step("delete", noun.name, item["name"], item["id"]) for item in items]
            return show_plan(noun, steps, show.form, quiet=show.quiet)
        codes = [_delete_one(client, kit, item, show, manner) for item in items]
        return next((code for code in codes if code is not ExitCode.DONE), ExitCode.DONE)

    options: list[Decorator] = [
        click.argument(
            "texts",
            metavar=noun.name.upper(),
            nargs=-1,
            required=True,
            shell_complete=names_of(noun.name),
        ),
        *scope(noun),
    ]
    about = f"Delete {noun.plural_name}; one that is refused keeps none of the others."
    return kit.command("delete", about, noun.example_name, call, options)


def _delete_one(client: ApiClient, kit: Kit, item: Item, show: Show, manner: Manner) -> ExitCode:
    label = kit.label(item)
    try:
        with progress(f"delete {label}"):
            answer = client.send("DELETE", path_of(kit.noun, item["id"]), headers=manner.headers)
    except (Refused, NoAnswer) as error:
        return tell(error, debug=False)
    if not told_operation(answer, show):
        click.echo(f"deleted {label}", err=True)
    return ExitCode.DONE
