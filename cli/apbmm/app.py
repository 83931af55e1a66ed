"""The options of the `apbmm` command. Slow imports come after the options are parsed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter, validators

from apbmm.confirm.flags import NONE_GIVEN, ConfirmOptions
from apbmm.export.flags import ExportRequest
from apbmm.init.flags import NOTHING_GIVEN, InitFlags
from apbmm.merge.flags import MergeRequest
from apbmm.pick.flags import NO_PREFERENCE, PreferenceFlags
from apbmm.run.flags import ALL_DEFAULTS, RunFlags
from apbmm_common.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, UsageError
from apbmm_common.process.command_line import command_app

app = command_app(
    "apbmm",
    "Run a search on this host, and look at runs. On several hosts: apbmm-master and apbmm-worker."
    "\n\nFirst: apbmm demo, which brings its models and needs no card.",
)

START, WATCH, RESULT, HOSTS, app.group_commands = map(
    Group.create_ordered, ("Start", "Watch", "Results", "Hosts and keys", "More")
)
"""The parts of the commands' list, in the order in which a user needs them."""

app.command(
    "apbmm.keys:app",
    name="keys",
    group=HOSTS,
    help="Make, list and revoke the keys of a master and its workers.",
)


@app.command(name="--install-completion")
def install_completion(*, shell: Literal["bash", "zsh", "fish", "powershell"] | None = None) -> int:
    """Let the shell complete commands, flags and values, of apbmm-master and apbmm-worker too.

    Writes a script for each of the three commands where the shell looks for them, and a line into
    its startup file. After an update the same command writes them again.

    Parameters
    ----------
    shell
        Default: the shell that this is started from.
    """
    from apbmm.completion import install

    return install(app, shell)


OneGpu = Annotated[str | None, Parameter(name=("--gpu", "--gpus"))]
Keys = Annotated[str | None, Parameter(env_var="APBMM_KEYS")]
AtLeastOne = Annotated[int | None, Parameter(validator=validators.Number(gte=1))]


@app.command(usage="apbmm init [OPTIONS] [RUN_FILE]", group=START)
def init(run_file: Path = Path("run.toml"), /, *, flags: InitFlags = NOTHING_GIVEN) -> int:
    """Write a run file for two models and some benchmarks, ready for apbmm check and apbmm run.

    Reads the headers of the models and every row of the benchmarks, decides which model is the
    thinking one, guesses adapters and proposes limits. Where neither chat templates nor the names
    of the folders say which it is, --thinking and --instruct name the two in place of --model. At a
    terminal it asks for what is not given.
    Nothing is downloaded without --download.

    Parameters
    ----------
    run_file
        The file to write.
    """
    from apbmm.init.command import write_run_file

    return write_run_file(run_file, flags)


@app.command(group=START)
def check(
    run_file: Path,
    /,
    *,
    questions: bool | None = None,
    probe: Annotated[bool, Parameter(negative=())] = False,
    probe_questions: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 32,
    gpu: OneGpu = None,
    allow_remote_code: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Dry run: name every error of a run file at once, or print what would run.

    Reads the headers of the checkpoints, every row of the benchmarks, and the prompts.

    Parameters
    ----------
    run_file
        RUN.toml.
    questions
        Have EvalScope read the benchmarks, which takes it some seconds: shows the first question
        of each as the model will see it, checks that every prompt fits the context, and scores
        every right answer as if the model had given it. Default: where EvalScope is installed.
    probe
        Start an engine as a worker does, ask the sources some questions, and say what the run will
        cost: seconds, GPU-hours, wall-clock time, with a range and what it was reckoned from; and
        whether the limit of tokens cuts answers off. The exit code is 1 where such a run would end
        after its references, as most answers are malformed, say.
    probe_questions
        Questions of each benchmark that --probe asks, spread over all of them.
    gpu
        What --probe runs on: card number; several as 0,1; or cpu. Default: 0, or cpu where a CPU
        build of PyTorch is installed.
    allow_remote_code
        Run Python code for these, where the run file asks for it: its own adapters, a tokenizer's.
    """
    from apbmm.check.inspect import inspect, inspect_questions
    from apbmm.check.view import print_conclusion, print_faults, print_plan

    if gpu is not None and not probe:
        raise UsageError(f"--gpu {gpu}: without --probe nothing runs on a device", "add --probe")
    found = inspect(run_file)
    rehearsal = found.spec is not None and found.spec.evaluation.kind == "rehearsal"
    if questions is not False and not found.faults and not rehearsal:
        inspect_questions(found, required=bool(questions), allowed_code=allow_remote_code)
    if found.faults:
        print_faults(found)
        return EXIT_USAGE
    print_plan(found)
    if probe:
        from apbmm.probe.command import print_probe

        if not print_probe(found, probe_questions, gpu, allow_remote_code=allow_remote_code):
            return EXIT_FAILED
    print_conclusion(found)
    return EXIT_DONE


@app.command(group=START)
def schema(*, out: Path | None = None) -> int:
    """Print the JSON schema of the run file, with which editors complete and check its keys.

    Editors that read TOML by Taplo (Even Better TOML for VS Code) find it by the first line of the
    run file: #:schema ./apbmm.schema.json.

    Parameters
    ----------
    out
        The file to write. Default: standard output.
    """
    from apbmm.run_file_schema import write_schema

    return write_schema(out)


@app.command(usage="apbmm doctor [OPTIONS] [RUN_FILE]", group=HOSTS)
def doctor(
    run_file: Path | None = None,
    /,
    *,
    run_dir: Path | None = None,
    scratch: Annotated[Path | None, Parameter(env_var="APBMM_SCRATCH")] = None,
    master: Annotated[str | None, Parameter(env_var="APBMM_MASTER")] = None,
    status: str | None = None,
    keys: Keys = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Say whether this host can run a master and workers: one line for each check, and a remedy.

    Cards and driver, PyTorch, vLLM, EvalScope, disks, shared memory, file locks, the master's port,
    addresses, keys. The exit code is 1 where a check has failed, and 0 otherwise.

    Parameters
    ----------
    run_file
        RUN.toml: looks at its folders too, and at the master of its run if one lives.
    run_dir
        Run directory. Default: as apbmm-master chooses it.
    scratch
        Folder of the workers' --scratch. Default: within their state folders.
    master
        Address of a master, as a worker takes it: whether it can be reached from here.
    status
        Address of a master's status socket (its --status-bind), for the difference of clocks.
        Default: that of the run directory's master.
    keys
        Folder of keys. Default: ~/.config/apbmm/keys if there are keys in it; none goes without.
    json
        Print one JSON object instead.
    """
    from apbmm.doctor.command import DoctorRequest, run_doctor

    return run_doctor(DoctorRequest(run_file, run_dir, scratch, master, status, keys, json))


@app.command(group=START)
def run(run_file: Path, /, *, flags: RunFlags = ALL_DEFAULTS) -> int:
    """Run a search on this host: a master, and one worker for each card.

    The same command goes on where it stopped, also after a crash. Ctrl-C or SIGTERM lets the
    evaluations in hand finish; a second one stops at once, and nothing recorded is lost. For
    several hosts, or to have master and workers restarted by themselves, start apbmm-master and
    apbmm-worker.

    Parameters
    ----------
    run_file
        RUN.toml.
    """
    from apbmm.run.command import run_search

    return run_search(run_file, flags)


@app.command(name="try", group=START)
def try_run(
    run_file: Path,
    /,
    *,
    source: str | None = None,
    questions: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 5,
    gpu: OneGpu = None,
    allow_remote_code: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Ask one source a few questions of each benchmark: prompt, answer, extraction, score.

    The first thing to do with a benchmark of your own. It starts one engine as a worker does,
    needs no master and keeps nothing.

    Parameters
    ----------
    run_file
        RUN.toml.
    source
        The source that answers, by its name in the run file. Default: the one whose template is
        used (generation.template_from).
    questions
        Questions of each benchmark: the first of those that a run would ask.
    gpu
        Card number; several as 0,1; or cpu. Default: 0, or cpu where a CPU build of PyTorch is
        installed.
    allow_remote_code
        Run Python code that comes with checkpoints or is the run's own adapters, where the run
        file asks for it as well.
    json
        Print one JSON object instead.
    """
    from apbmm.try_run.command import TryRequest, run_try

    return run_try(
        TryRequest(
            run_file,
            source=source,
            questions=questions,
            gpu=gpu,
            allow_remote_code=allow_remote_code,
            as_json=json,
        )
    )


@app.command(usage="apbmm status [OPTIONS] [RUN]", group=WATCH)
def status(
    run: str | None = None,
    /,
    *,
    watch: Annotated[bool, Parameter(negative=())] = False,
    all: Annotated[bool, Parameter(negative=())] = False,  # noqa: A002 - the flag's name
    json: Annotated[bool, Parameter(negative=())] = False,
    keys: Keys = None,
) -> int:
    """Show where a run stands: from its master, or from its journal when no master lives.

    Parameters
    ----------
    run
        Run directory, name of a run, or address of a status socket (tcp://HOST:PORT). Default: the
        most recently changed run under runs/.
    watch
        Draw again every second until the run is finished, or Ctrl-C.
    all
        List every evaluation too, with the weights of its merge.
    json
        Print one JSON object instead.
    keys
        Folder of keys, for an address: the master's, or a worker's. Default:
        ~/.config/apbmm/keys if there are keys in it; none goes without.
    """
    from apbmm.status.command import show_status

    return show_status(run, watch=watch, as_json=json, lists_all=all, keys=keys)


@app.command(usage="apbmm dashboard [OPTIONS] [RUN ...]", group=WATCH)
def dashboard(
    *runs: str, host: str = "127.0.0.1", port: int | None = None, keys: Keys = None
) -> int:
    """Show runs in a browser as they go on: front, progress, workers, evaluations, events.

    Prints the address of the page and serves it until Ctrl-C. It only shows: nothing can be changed
    there. Living, finished and abandoned runs, several side by side.

    Parameters
    ----------
    runs
        Run directories, names of runs, or addresses of status sockets (tcp://HOST:PORT). Default:
        all runs under runs/, and those that begin there later.
    host
        Address to listen on. One that other hosts can reach demands a token, which the printed
        address has.
    port
        Port to listen on. Default: 5757, or a free one where that is taken.
    keys
        Folder of keys, for addresses: the master's, or a worker's. Default: ~/.config/apbmm/keys if
        there are keys in it; none goes without.
    """
    from apbmm.dashboard.command import DashboardRequest, run_dashboard

    return run_dashboard(DashboardRequest(runs, host, port, keys))


@app.command(usage="apbmm pick [OPTIONS] [RUN]", group=RESULT)
def pick(
    run: str | None = None,
    /,
    *,
    preference: PreferenceFlags = NO_PREFERENCE,
    all: Annotated[bool, Parameter(negative=())] = False,  # noqa: A002 - the flag's name
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Pick the merge to serve, and say why: in raw figures with intervals, against the sources.

    With a limit, the best of the merges within it by the objective that it does not speak of.
    Otherwise the knee of the front. Where nothing is within the limits, the nearest merges are
    shown, and the exit code is 1.

    Parameters
    ----------
    run
        Run directory, or name of a run. Default: the most recently changed run under runs/.
    all
        Rank all merges within the limits.
    json
        Print one JSON object instead.
    """
    from apbmm.pick.command import show_pick

    return show_pick(run, preference, ranks_all=all, as_json=json)


@app.command(usage="apbmm compare [OPTIONS] RUN_DIR...", group=RESULT)
def compare(
    *run_dirs: Path,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Put runs side by side: hypervolume, Spacing, contribution to the pooled front, load, time.

    Runs whose objectives do not mean the same (other sources, benchmarks or settings) are refused.

    Parameters
    ----------
    run_dirs
        Run directories, finished or not.
    json
        Print one JSON object instead.
    """
    from apbmm.compare.runs import compare as compared
    from apbmm.compare.runs import read_runs
    from apbmm.compare.view import as_json, print_table
    from apbmm.results.json_form import print_json

    found = compared(read_runs(run_dirs))
    if json:
        print_json(as_json(found))
    else:
        print_table(found)
    return EXIT_DONE


@app.command(usage="apbmm table [OPTIONS] [RUN]", group=RESULT)
def table(
    run: str | None = None,
    /,
    *,
    outcomes: Annotated[bool, Parameter(negative=())] = False,
    form: Annotated[Literal["csv", "parquet", "json"] | None, Parameter(name="--format")] = None,
    out: Path | None = None,
) -> int:
    """Write a run as a table, for your own analysis: a row for each evaluation.

    Weights, objectives, the figures of every benchmark with their intervals, seconds, cost, states.
    The columns are in the documentation, under Results.

    Parameters
    ----------
    run
        Run directory, or name of a run. Default: the most recently changed run under runs/.
    outcomes
        A row for each answer instead: question, score, tokens.
    form
        csv, parquet or json. Default: that of the file's name, or csv.
    out
        The file to write. Default: standard output.
    """
    from apbmm.table.command import write_table

    return write_table(run, form, out, outcomes=outcomes)


@app.command(usage="apbmm answers --eval STR [OPTIONS] [RUN]", group=RESULT)
def answers(
    run: str | None = None,
    /,
    *,
    evaluation: Annotated[str, Parameter(name="--eval")],
    against: str | None = None,
    question: str | None = None,
    state: Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)] = (),
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Show what a merge answered: score and tokens of every question, or the texts of one.

    Scores and tokens are in the journal. The texts are read where the worker kept them.

    Parameters
    ----------
    run
        Run directory, or name of a run. Default: the most recently changed run under runs/.
    evaluation
        Its id, as in status: e0001, thinking, ...
    against
        A second one, to be shown beside it. Of both, the questions whose scores differ are listed.
    question
        A question's id, or BENCHMARK/ID: shows what was asked and the texts of the answers.
    state
        The state folder of a worker (its --state), or a folder of those, to find texts in. May be
        given several times. The run directory and this user's own workers are searched anyway.
    json
        Print one JSON object instead, with all texts that are found.
    """
    from apbmm.answers.command import AnswersRequest, show_answers

    return show_answers(AnswersRequest(run, evaluation, against, question, state, json))


@app.command(usage="apbmm clean [OPTIONS] [RUN...]", group=HOSTS)
def clean(
    *runs: str,
    state: Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)] = (),
    yes: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """List what workers that are gone have left on this host; with --yes, remove it.

    State folders of this user's workers, merges of killed processes in memory, locks that nobody
    holds; of the runs that are named, the scratch of their workers. Nothing in use is touched, and
    no result that was not delivered is removed.

    Parameters
    ----------
    runs
        Run directories, or names of runs, whose workers keep their state there, as demos do.
    state
        The state folder of a worker that had one of its own (its --state), or a folder of those.
        May be given several times.
    yes
        Remove what is listed.
    json
        Print one JSON object instead.
    """
    from apbmm.clean.command import CleanRequest, run_clean

    return run_clean(CleanRequest(runs, state, yes, json))


@app.command(usage="apbmm report [OPTIONS] [RUN_DIR...]", group=RESULT)
def report(
    *run_dirs: Path,
    out: Path | None = None,
    form: Annotated[Literal["html", "svg", "png", "pdf"], Parameter(name="--format")] = "html",
    show_hosts: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Write what a run found as one HTML file: figures, tables, and what they say.

    The file needs nothing else and no network. Works on living, finished and abandoned runs.

    Parameters
    ----------
    run_dirs
        Run directories. Several are put side by side, as `apbmm compare` does. Default: the most
        recently changed run under runs/.
    out
        The file to write, or with another --format the folder for the figures. Default:
        report.html, or report-figures, in the run directory; of several runs comparison.html, or
        comparison-figures, here.
    form
        html, or svg, png or pdf for the figures alone, a file each.
    show_hosts
        Show whole paths and the names of hosts. By default a report can be given to others: paths
        keep their last parts, and hosts are numbered.
    """
    from apbmm.report.command import write_report

    return write_report(run_dirs, out, form, show_hosts=show_hosts)


@app.command(usage="apbmm confirm [OPTIONS] [RUN]", group=RESULT)
def confirm(run: str | None = None, /, *, options: ConfirmOptions = NONE_GIVEN) -> int:
    """Measure the front of a search once more, on questions that took no part in the search.

    The best of many noisy measurements look better than they are. This serves the front and both
    references to the workers, outside the budget and unseen by the search, and prints search and
    confirmed figures side by side. It needs confirm.holdout, [[confirm.benchmarks]] or
    confirm.repeats in the run file. The same command goes on where it stopped; what is confirmed is
    not measured again.

    Parameters
    ----------
    run
        Run directory of the search, or its name. Default: the most recently changed run under
        runs/.
    """
    from apbmm.confirm.command import run_confirm

    return run_confirm(run, options)


@app.command(usage="apbmm measure --model PATH [OPTIONS] [RUN]", group=RESULT)
def measure(
    run: str | None = None,
    /,
    *,
    model: Path,
    against: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    path: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    search_questions: Annotated[bool, Parameter(negative=())] = False,
    gpu: OneGpu = None,
    allow_remote_code: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Measure any checkpoint on the questions of a run, beside its sources and merges.

    For a quantised export, or a model from elsewhere. It starts one engine as a worker does, needs
    no master, and keeps what it measured in the run directory. The checkpoint's own tokenizer and
    chat template are used.

    Parameters
    ----------
    run
        Run directory of a search, or its name. Default: the most recently changed run under runs/.
    model
        Folder of the checkpoint.
    against
        An evaluation of the run to show beside it: the merge that was quantised, say. May be given
        several times.
    path
        NAME=FOLDER: where this host has the data of a benchmark (or the file of the run's own
        adapters). Default: where the run file has it. May be given several times.
    search_questions
        Ask the search's questions, although the search is confirmed on others.
    gpu
        Card number; several as 0,1; or cpu. Default: 0, or cpu where a CPU build of PyTorch is
        installed.
    allow_remote_code
        Run the checkpoint's own Python code, if the run file asks for it.
    json
        Print one JSON object instead.
    """
    from apbmm.measure.command import MeasureRequest, run_measure

    return run_measure(
        MeasureRequest(
            run=run,
            model=model,
            against=against,
            paths=path,
            search_questions=search_questions,
            gpu=gpu,
            allow_remote_code=allow_remote_code,
            as_json=json,
        )
    )


@app.command(group=START)
def demo(
    *,
    run_dir: Path | None = None,
    evaluations: AtLeastOne = None,
    workers: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 2,
    seed: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None,
    rehearsal: Annotated[bool, Parameter(negative=())] = False,
    dashboard: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Search merges of the shipped pair of small models, on the CPU: a master and its workers.

    The same command with the same --run-dir goes on where it stopped. Ctrl-C or
    SIGTERM lets the evaluations in hand finish; a second one stops at once, and nothing recorded
    is lost.

    Parameters
    ----------
    run_dir
        Folder that holds everything about the run. Default: a new one under runs/.
    evaluations
        Merges to evaluate, beside the two references. Default: 40, or as the run was begun.
    workers
        CPU workers, each with a vLLM of its own.
    seed
        Seed of the search. Default: 0, or as the run was begun.
    rehearsal
        Invent the measurements instead of running the models: tries only the machinery.
    dashboard
        Show the run in a browser while it goes on (apbmm dashboard); prints the address.
    """
    from apbmm.demo.command import DemoOptions, run_demo

    return run_demo(run_dir, DemoOptions(evaluations, workers, seed, rehearsal, dashboard))


@app.command(usage="apbmm export --out PATH [OPTIONS] [RUN]", group=RESULT)
def export(run: str | None = None, /, *, request: ExportRequest) -> int:
    """Write a merge of a run as a complete Hugging Face folder, ready to serve.

    Without --eval and --front the merge is chosen as apbmm pick chooses it. The weights are
    compared with the digest of those that were evaluated. Beside them are a model card,
    mergekit_config.yml and apbmm_merge.json.

    Parameters
    ----------
    run
        Run directory, or name of a run. Default: the most recently changed run under runs/.
    """
    from apbmm.export.command import run_export

    return run_export(run, request)


@app.command(usage="apbmm merge --out PATH [OPTIONS] [RUN EVALUATION]", group=RESULT)
def merge(
    run: str | None = None,
    evaluation: str | None = None,
    /,
    *,
    request: Annotated[MergeRequest, Parameter(name="*")],
) -> int:
    """Merge checkpoints into one, as the workers do.

    Linear: the weighted sum of the sources, layer by layer. The other methods make one task vector
    of all (source minus base) and add it, times the weight, to the base. Tensors are laid out and
    stored as in the last source. With RUN and EVALUATION it is apbmm export RUN --eval EVALUATION.

    Parameters
    ----------
    run
        Run directory, in place of --source.
    evaluation
        The evaluation whose merge to write, as e0017.
    """
    if run is not None:
        from apbmm.export.command import run_merge_of_evaluation

        return run_merge_of_evaluation(run, evaluation, request)
    from apbmm.merge.command import run_merge

    return run_merge(request)
