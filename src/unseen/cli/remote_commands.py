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
partners = _group(
    "partner", "Organisations that a node works with: pairing with them while it runs, and the end of it."
)
tables = _group("table", "A node's own tables.")
sources = _group("source", "Databases and buckets of your organisation, from which its node imports tables.")
projects = _group("project", "Agreements with partners at a node: drafts, signatures, revocations, what a site allows.")
jobs = _group("job", "Jobs at a node: proposed, approved, watched, paused, cancelled; and their results.")
models = _group("model", "A node's own parts of the models that jobs have trained.")

Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
Project = Annotated[str, typer.Argument(help="The project's name.", metavar="PROJECT")]
Job = Annotated[str, typer.Argument(help="The job's name.", metavar="JOB")]
Table = Annotated[str, typer.Argument(help="The table's name.", metavar="TABLE")]
Reason = Annotated[str, typer.Option(help="Why, in words that all parties read.")]


def _work(module: str = "remote") -> ModuleType:
    return import_module(f"unseen.cli.{module}")


def login(
    url: Annotated[str, typer.Argument(help="Where the node's HTTP is: http://127.0.0.1:8700")],
    name: Annotated[str | None, typer.Option(help="Your name at the node.")] = None,
    sso: Annotated[
        bool, typer.Option("--sso", help="Sign in by your organisation's identity provider, in a browser anywhere.")
    ] = False,
    set_up: Annotated[
        bool, typer.Option("--set-up", help="Be the first person: the token that the node printed is asked for.")
    ] = False,
    authority: Annotated[
        Path | None, typer.Option(help="File with the certificate behind the node's HTTPS, if it is your own.")
    ] = None,
) -> None:
    """Sign in at your organisation's node; the password is asked for, or read from UNSEEN_PASSWORD."""
    _work("session").login(url=url, name=name, set_up=set_up, sso=sso, authority=authority)


def logout() -> None:
    """Sign out of the node."""
    _work("session").logout()


@people.command("list")
def list_people(json: Json = False) -> None:
    """List everybody."""
    _work().show("people", as_json=json)


@people.command("add")
def add_person(
    name: Annotated[str, typer.Argument(help="How they sign in.")],
    duty: Annotated[list[str], typer.Option(help="admin, data-owner, analyst, approver or auditor; may be repeated.")],
    sso: Annotated[
        str | None, typer.Option(help="The subject that the identity provider has for them; no password then.")
    ] = None,
    password: Annotated[bool, typer.Option("--password", help="A password beside --sso.")] = False,
    json: Json = False,
) -> None:
    """Add somebody; the password is asked for."""
    _work().add_person(name=name, duties=duty, sso=sso, with_password=password, as_json=json)


@people.command("change")
def change_person(  # noqa: PLR0913, PLR0917  # each is an option
    name: Annotated[str, typer.Argument(help="Who.")],
    duty: Annotated[list[str] | None, typer.Option(help="All duties they have from now on.")] = None,
    project: Annotated[list[str] | None, typer.Option(help="All projects an analyst works on.")] = None,
    active: Annotated[bool | None, typer.Option("--active/--inactive", help="Whether they may sign in.")] = None,
    sso: Annotated[str | None, typer.Option(help="The subject that the identity provider has for them.")] = None,
    no_sso: Annotated[bool, typer.Option("--no-sso", help="Let them come by the provider no more.")] = False,
    json: Json = False,
) -> None:
    """Change what somebody may do, or how they sign in."""
    subject = "" if no_sso else sso
    _work().change_person(name, duties=duty, projects=project, active=active, sso=subject, as_json=json)


@people.command("trail")
def people_trail(
    out: Annotated[Path, typer.Option(help="The file to write, for `unseen audit show` and `unseen audit verify`.")],
) -> None:
    """Fetch the node's own trail: what was done to people, who approved and signed; for auditors."""
    _work().trail(project=None, out=out)


@partners.command("list")
def list_partners(json: Json = False) -> None:
    """List the organisations that the node was paired with."""
    _work().show("partners", as_json=json)


@partners.command("pairings")
def list_pairings(json: Json = False) -> None:
    """List pairings since the node was started, and how far they have come."""
    _work().show("pairings", as_json=json)


@partners.command("invite")
def invite(
    to: Annotated[str | None, typer.Option(help="Name of the partner; nobody else can join then.")] = None,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT at which the partner reaches the node, if not where it listens.")
    ] = None,
    minutes: Annotated[int, typer.Option(min=1, max=1440, help="For how long the invitation is good.")] = 60,
    json: Annotated[bool, typer.Option("--json", help="Print the invitation as JSON, and do not wait.")] = False,
) -> None:
    """Print a line for a partner, wait until it joins, and compare a short code with the people there."""
    _work("partners").invite(to=to, address=address, minutes=minutes, as_json=json)


@partners.command("join")
def join(
    line: Annotated[str, typer.Argument(help="What the partner's `invite` printed; - to be asked.", metavar="LINE")],
    json: Annotated[bool, typer.Option("--json", help="Print the pairing as JSON, and do not wait.")] = False,
) -> None:
    """Let the node pair with the one who made an invitation, and compare a short code with the people there."""
    _work("partners").join(line=line, as_json=json)


@partners.command("confirm")
def confirm(
    pairing: Annotated[str, typer.Argument(help="The pairing's name.", metavar="PAIRING")],
    code: Annotated[str, typer.Argument(help="What the people of the other side have read.", metavar="CODE")],
    json: Json = False,
) -> None:
    """Say which code was heard, in a pairing that was begun with --json or in another window."""
    _work().show("confirm", pairing, code, as_json=json)


@partners.command("cancel")
def cancel_pairing(
    pairing: Annotated[str, typer.Argument(help="The pairing's name.", metavar="PAIRING")],
    json: Json = False,
) -> None:
    """Take an invitation back, or give a pairing up."""
    _work().show("take_back", pairing, as_json=json)


@partners.command("strike")
def strike(name: Annotated[str, typer.Argument(help="The partner's name.", metavar="NAME")]) -> None:
    """Trust a partner no more; what is up between the two nodes ends within seconds."""
    _work("partners").strike(name=name)


@tables.command("list")
def list_tables(json: Json = False) -> None:
    """List all versions of all tables."""
    _work().show("tables", as_json=json)


Key = Annotated[str | None, typer.Option("--id", help="The column that says whom a row is about.")]
Label = Annotated[str | None, typer.Option(help="The column to be predicted.")]
Weight = Annotated[str | None, typer.Option(help="The column of weights.")]
TextColumns = Annotated[list[str] | None, typer.Option(help="A column that is text, like telephone numbers.")]
LeaveOut = Annotated[list[str] | None, typer.Option(help="A column that is not kept at all.")]
Lenient = Annotated[bool, typer.Option("--lenient", help="Leave bad rows out instead of refusing the file.")]
RepeatedIds = Annotated[bool, typer.Option("--repeated-ids", help="Several rows may share an id.")]


def _how(**said: object) -> dict[str, object]:
    """Return how a table is imported, as far as something was said."""
    return {name: value for name, value in said.items() if value}


@tables.command("add")
def add_table(  # noqa: PLR0913, PLR0917  each is an option
    name: Table,
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet file.")],
    key: Key = None,
    label: Label = None,
    weight: Weight = None,
    text: TextColumns = None,
    leave_out: LeaveOut = None,
    lenient: Lenient = False,
    repeated_ids: RepeatedIds = False,
    json: Json = False,
) -> None:
    """Import a file as the next version of a table, and report what was found."""
    how = _how(id=key, label=label, weight=weight, text=text, leave_out=leave_out)
    _work().add_table(name=name, file=file, how={**how, "lenient": lenient, "repeated_ids": repeated_ids}, as_json=json)


@tables.command("import")
def import_table(  # noqa: PLR0913, PLR0917  each is an option
    name: Table,
    source: Annotated[str, typer.Option(help="The source: `unseen source list`.")],
    table: Annotated[str, typer.Option(help="SCHEMA.TABLE, or the key of an object: `unseen source tables SOURCE`.")],
    columns: Annotated[str | None, typer.Option(help="Columns that are taken: a,b,c. Default: all.")] = None,
    key: Key = None,
    label: Label = None,
    weight: Weight = None,
    text: TextColumns = None,
    leave_out: LeaveOut = None,
    lenient: Lenient = False,
    repeated_ids: RepeatedIds = False,
    json: Json = False,
) -> None:
    """Import a table of a source as the next version of a table, and report what was found."""
    taken = columns.split(",") if columns else None
    how = _how(id=key, label=label, weight=weight, text=text, leave_out=leave_out, columns=taken)
    flags = {"lenient": lenient, "repeated_ids": repeated_ids}
    _work().add_table(name=name, file=None, how={**how, **flags, "source": source, "table": table}, as_json=json)


@sources.command("list")
def list_sources(json: Json = False) -> None:
    """List the sources that whoever runs the node has configured."""
    _work().show("sources", as_json=json)


@sources.command("tables")
def list_source_tables(
    source: Annotated[str, typer.Argument(help="The source's name.", metavar="SOURCE")], json: Json = False
) -> None:
    """List the tables of a source."""
    _work().show("source_tables", source, as_json=json)


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
    out: Annotated[Path, typer.Option(help="The file to write, for `unseen audit show` and `unseen audit verify`.")],
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


@jobs.command("pause")
def pause(project: Project, job: Job, reason: Reason, json: Json = False) -> None:
    """Let nobody work on a job, at no party, until you let it go on; its time runs on."""
    _work().show("pause", project, job, reason, as_json=json)


@jobs.command("resume")
def resume(project: Project, job: Job, json: Json = False) -> None:
    """Let a job go on that was paused here."""
    _work().show("resume", project, job, as_json=json)


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


@jobs.command("report")
def report(
    project: Project,
    job: Job,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """Write what a job left behind at this node as one HTML page: models, curves, costs, who learned what."""
    _work().report(project=project, job=job, out=out)


@models.command("list")
def list_models(project: Project, json: Json = False) -> None:
    """List this node's parts of the models that finished jobs have trained, the newest first."""
    _work().show("models", project, as_json=json)


@models.command("save")
def save_model(
    project: Project,
    job: Job,
    name: Annotated[str, typer.Argument(help="STEP.PORT, as the list has it.", metavar="MODEL")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
) -> None:
    """Write this node's part of a model to a file."""
    _work().save(project=project, job=job, result=name, out=out)


def add_to(app: typer.Typer) -> None:
    """Add all of these to the command line."""
    app.command()(login)
    app.command()(logout)
    for group in (people, partners, tables, sources, projects, jobs, models):
        app.add_typer(group)
