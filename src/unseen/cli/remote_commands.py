"""Commands of a node's own people, over its HTTP; what they need is loaded when they run, so that help is quick."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer


def _group(name: str, about: str) -> typer.Typer:
    return typer.Typer(name=name, help=about, no_args_is_help=True, rich_markup_mode=None)


people = _group("people", "Who works at a node, and what they may do.")
tables = _group("table", "A node's own tables.")
projects = _group("project", "Agreements with partners at a node: drafts, signatures, revocations, what a site allows.")
jobs = _group("job", "Jobs at a node: proposed, approved, watched, cancelled; and their results.")

Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
Project = Annotated[str, typer.Argument(help="The project's name.", metavar="PROJECT")]
Job = Annotated[str, typer.Argument(help="The job's name.", metavar="JOB")]
Table = Annotated[str, typer.Argument(help="The table's name.", metavar="TABLE")]
Reason = Annotated[str, typer.Option(help="Why, in words that all parties read.")]


def _work() -> ModuleType:
    return import_module("unseen.cli.remote")


def login(
    url: Annotated[str, typer.Argument(help="Where the node's HTTP is: http://127.0.0.1:8700")],
    name: Annotated[str, typer.Option(help="Your name at the node.")],
    set_up: Annotated[
        bool, typer.Option("--set-up", help="Be the first person: the token that the node printed is asked for.")
    ] = False,
    authority: Annotated[
        Path | None, typer.Option(help="File with the certificate behind the node's HTTPS, if it is your own.")
    ] = None,
) -> None:
    """Sign in at your organisation's node; the password is asked for, or read from UNSEEN_PASSWORD."""
    _work().login(url=url, name=name, set_up=set_up, authority=authority)


def logout() -> None:
    """Sign out of the node."""
    _work().logout()


@people.command("list")
def list_people(json: Json = False) -> None:
    """List everybody."""
    _work().show("people", as_json=json)


@people.command("add")
def add_person(
    name: Annotated[str, typer.Argument(help="How they sign in.")],
    duty: Annotated[list[str], typer.Option(help="admin, data-owner, analyst, approver or auditor; may be repeated.")],
    json: Json = False,
) -> None:
    """Add somebody; the password is asked for."""
    _work().add_person(name=name, duties=duty, as_json=json)


@people.command("change")
def change_person(
    name: Annotated[str, typer.Argument(help="Who.")],
    duty: Annotated[list[str] | None, typer.Option(help="All duties they have from now on.")] = None,
    project: Annotated[list[str] | None, typer.Option(help="All projects an analyst works on.")] = None,
    active: Annotated[bool | None, typer.Option("--active/--inactive", help="Whether they may sign in.")] = None,
    json: Json = False,
) -> None:
    """Change what somebody may do."""
    _work().change_person(name=name, duties=duty, projects=project, active=active, as_json=json)


@tables.command("list")
def list_tables(json: Json = False) -> None:
    """List all versions of all tables."""
    _work().show("tables", as_json=json)


@tables.command("add")
def add_table(  # noqa: PLR0913, PLR0917  each is an option
    name: Table,
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet file.")],
    key: Annotated[str | None, typer.Option("--id", help="The column that says whom a row is about.")] = None,
    label: Annotated[str | None, typer.Option(help="The column to be predicted.")] = None,
    weight: Annotated[str | None, typer.Option(help="The column of weights.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A column that is text, like telephone numbers.")] = None,
    leave_out: Annotated[list[str] | None, typer.Option(help="A column that is not kept at all.")] = None,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Leave bad rows out instead of refusing the file.")
    ] = False,
    repeated_ids: Annotated[bool, typer.Option("--repeated-ids", help="Several rows may share an id.")] = False,
    json: Json = False,
) -> None:
    """Import a file as the next version of a table, and report what was found."""
    said = {"id": key, "label": label, "weight": weight, "text": text, "leave_out": leave_out}
    how = {name: value for name, value in said.items() if value}
    _work().add_table(name=name, file=file, how={**how, "lenient": lenient, "repeated_ids": repeated_ids}, as_json=json)


@tables.command("profile")
def profile(
    name: Table, version: Annotated[int, typer.Argument(min=1, help="The version's number.")], json: Json = False
) -> None:
    """Show figures of a table's columns."""
    _work().show("profile", name, version, as_json=json)


@tables.command("retire")
def retire(
    name: Table, version: Annotated[int, typer.Argument(min=1, help="The version's number.")], json: Json = False
) -> None:
    """Take a version out of use."""
    _work().show("retire", name, version, as_json=json)


@projects.command("list")
def list_projects(json: Json = False) -> None:
    """List the projects that you may see."""
    _work().show("projects", as_json=json)


@projects.command("show")
def show_project(project: Project, json: Json = False) -> None:
    """Show a project: its agreement, whose signature is missing, what this site lets it do."""
    _work().show("project", project, as_json=json)


@projects.command("template")
def template(
    project: Project,
    flow: Annotated[Path, typer.Argument(help="The flow that is to run, in YAML or JSON.", metavar="FLOW")],
    out: Annotated[Path, typer.Option(help="The agreement to write, for you to complete.")] = Path("agreement.yaml"),
    policy_out: Annotated[Path, typer.Option("--policy", help="The policy to write.")] = Path("policy.yaml"),
    days: Annotated[int, typer.Option(min=1, help="For how long it holds.")] = 90,
    points: Annotated[int, typer.Option(min=1, help="Ids that an owner evaluates for a partner in one job.")] = 100_000,
) -> None:
    """Write an agreement and a site's policy under which one flow can run, as drafts to edit."""
    _work().template(project=project, flow=flow, out=out, policy_out=policy_out, days=days, points=points)


@projects.command("draft")
def draft(
    text: Annotated[Path, typer.Argument(help="The agreement, in YAML or JSON; members are names.", metavar="FILE")],
    json: Json = False,
) -> None:
    """Write an agreement, or its next version, and offer it to its members."""
    _work().draft(text=text, as_json=json)


@projects.command("sign")
def sign(
    project: Project,
    digest: Annotated[str, typer.Option(help="Of the agreement that you have read: `unseen project show`.")],
    json: Json = False,
) -> None:
    """Sign the agreement that waits."""
    _work().change_project("sign", project, digest, as_json=json)


@projects.command("revoke")
def revoke(project: Project, reason: Reason, json: Json = False) -> None:
    """End an agreement, alone and for good; its jobs end with it."""
    _work().change_project("revoke", project, reason, as_json=json)


@projects.command("policy")
def policy(
    project: Project,
    file: Annotated[Path | None, typer.Argument(help="What this site lets it do, in YAML or JSON.")] = None,
    nothing: Annotated[bool, typer.Option("--nothing", help="Let it do nothing any more.")] = False,
    json: Json = False,
) -> None:
    """Say what this site lets a project do, at most; without a policy it is nothing."""
    _work().set_policy(project=project, file=file, nothing=nothing, as_json=json)


@projects.command("trail")
def trail(
    project: Project,
    out: Annotated[Path, typer.Option(help="The file to write, for `unseen audit verify`.")],
    heads: Annotated[Path | None, typer.Option(help="A folder for the heads that partners signed of theirs.")] = None,
) -> None:
    """Fetch the trail of all decisions in a project."""
    _work().trail(project=project, out=out, heads=heads)


@jobs.command("list")
def list_jobs(
    project: Annotated[str | None, typer.Option(help="Of this project only.")] = None, json: Json = False
) -> None:
    """List the newest jobs that you may see."""
    _work().show("jobs", project, as_json=json)


@jobs.command("show")
def show_job(project: Project, job: Job, json: Json = False) -> None:
    """Show a job and its steps."""
    _work().show("job", project, job, as_json=json)


@jobs.command("propose")
def propose(  # noqa: PLR0913, PLR0917  each is an option
    project: Project,
    flow: Annotated[Path, typer.Argument(help="The flow, in YAML or JSON.", metavar="FLOW")],
    points: Annotated[
        int | None,
        typer.Option(min=0, help="Ids that an owner evaluates for a partner. Default: all that are needed."),
    ] = None,
    epsilon: Annotated[float, typer.Option(min=0, help="Differential privacy to be spent.")] = 0.0,
    delta: Annotated[float, typer.Option(min=0, help="Differential privacy to be spent.")] = 0.0,
    hours: Annotated[
        float, typer.Option(min=0.01, help="After so many hours the job is over, finished or not.")
    ] = 12.0,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it is over, and show how it goes.")] = False,
    json: Json = False,
) -> None:
    """Ask all data owners for a job."""
    terms = {"points": points, "epsilon": epsilon, "delta": delta, "hours": hours}
    _work().propose(project=project, flow=flow, terms=terms, wait=wait, as_json=json)


@jobs.command("watch")
def watch(project: Project, job: Job) -> None:
    """Show how a job goes, until it is over."""
    _work().watch(project=project, job=job)


@jobs.command("approve")
def approve(project: Project, job: Job, json: Json = False) -> None:
    """Let a job run that waits for an approval here; not one that you proposed yourself."""
    _work().show("approve", project, job, as_json=json)


@jobs.command("refuse")
def refuse(project: Project, job: Job, reason: Reason, json: Json = False) -> None:
    """Refuse a job that waits for an approval here."""
    _work().show("refuse", project, job, reason, as_json=json)


@jobs.command("cancel")
def cancel(project: Project, job: Job, reason: Reason, json: Json = False) -> None:
    """End a job, at all parties."""
    _work().show("cancel", project, job, reason, as_json=json)


@jobs.command("results")
def results(
    project: Project,
    job: Job,
    out: Annotated[Path | None, typer.Option(help="Folder to write all of them to.")] = None,
    json: Json = False,
) -> None:
    """List what a job left behind at this node, or write it to a folder."""
    _work().results(project=project, job=job, out=out, as_json=json)


def add_to(app: typer.Typer) -> None:
    """Add all of these to the command line."""
    app.command()(login)
    app.command()(logout)
    for group in (people, tables, projects, jobs):
        app.add_typer(group)
