"""What some nouns can do: become a default, be read further, be told to act."""

from typing import Any

import click

from appliance.cli.arguments import Decorator, query_of, query_options
from appliance.cli.client import ApiClient, segment
from appliance.cli.exit_code import ExitCode
from appliance.cli.kit import (
    Kit,
    Manner,
    Show,
    changing,
    named,
    parent_option,
    path_below,
    show_item,
    shown,
    told_operation,
)
from appliance.cli.lookup import Lookup, path_of
from appliance.cli.noun import Action, Reading
from appliance.cli.nouns import NOUNS
from appliance.cli.options import output, remote
from appliance.cli.output import Format, show_one
from appliance.cli.plan import Step, show_plan
from appliance.cli.progress import progress
from appliance.cli.shape import columns_of, fields_of, load


def default_command(kit: Kit) -> click.Command:
    noun, parent = kit.noun, NOUNS[kit.noun.default_of]

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
        above = path_below(lookup, (parent.name,), given)
        object_id = lookup.resolve(noun, text, below=above + noun.plural_name)
        item = lookup.read(noun, object_id)
        if manner.plan:
            step = Step("default", noun.name, item["name"], object_id)
            return show_plan(noun, [step], show.form, quiet=show.quiet)
        client.send("PATCH", f"{above}{noun.name}/{segment(object_id)}/default")
        kit.show(item, show)
        return ExitCode.DONE

    options: list[Decorator] = [
        named(noun),
        parent_option(parent.name, required=True, about="Whose default it becomes."),
    ]
    about = f"Make it the default of its {parent.name}, instead of the one before."
    example = f"{noun.example_name} --{parent.name} {parent.example_name}"
    return kit.command("default", about, example, call, options)


def reading_command(kit: Kit, reading: Reading) -> click.Command:
    noun, fields = kit.noun, fields_of(load(reading.struct), reading.sizes)

    @output
    @remote
    def call(client: ApiClient, form: Format, text: str) -> None:
        object_id = Lookup(client).resolve(noun, text)
        item = client.send("GET", f"{path_of(noun, object_id)}/{reading.verb}").body
        names = tuple(field.name for field in fields)
        show_one(item, columns_of(fields, names), form, names[0])

    return kit.command(reading.verb, reading.about, noun.example_name, call, [named(noun)])


def action_command(kit: Kit, action: Action) -> click.Command:
    noun = kit.noun

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
        object_id = lookup.resolve(noun, text)
        item = lookup.read(noun, object_id)
        path = path_of(noun, object_id)
        if manner.plan:
            settled = action.settled and (
                client.send("GET", f"{path}/state").body["state"] == action.settled
            )
            step = Step(action.verb, noun.name, item["name"], object_id)
            return show_plan(noun, [] if settled else [step], show.form, quiet=show.quiet)
        query = query_of(lookup, action.queries, given)
        with progress(f"{action.verb} {kit.label(item)}"):
            answer = client.send(
                "PATCH", f"{path}/{action.verb}", query=query, headers=manner.headers
            )
        if not told_operation(answer, show) and action.struct:
            fields = fields_of(load(action.struct))
            show_item(answer.body, columns_of(fields, ()), show, "name")
        return ExitCode.DONE

    options = [named(noun), *query_options(action.queries)]
    return kit.command(action.verb, action.about, noun.example_name, call, options)
