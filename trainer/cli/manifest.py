"""`trainer manifest`: a run as Kubernetes runs it, every number from the plan; and a check of changed manifests."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from trainer.cli.config_arguments import add_config_arguments, load_from_arguments
from trainer.cli.manifest_check import check, read_text
from trainer.cli.plan import plan_for_fleet
from trainer.cli.planning.fleet_argument import parse_fleet
from trainer.cli.planning.listening import policy_in_short
from trainer.cli.planning.options import known_dataset_size
from trainer.cli.planning.time import summary
from trainer.cli.planning.timing import Timing, open_timing
from trainer.config import TrainConfig
from trainer.engine.durable import write_file
from trainer.manifest.cluster_run import ClusterRun, ManifestError, grace_s
from trainer.manifest.folder import KUSTOMIZATION, MARK, SETTINGS_FILES, folder_texts
from trainer.manifest.from_config import cluster_run
from trainer.manifest.mpi_job import elastic_mpi_job, mpi_job
from trainer.manifest.pod import Tree
from trainer.manifest.rules import SHARED_PARTS, problems
from trainer.manifest.shared import network_policy, settings
from trainer.manifest.torchrun_jobs import indexed_job, train_job
from trainer.passwords import fit_to_print
from trainer.rule import Fleet, RunPlan
from trainer.yaml_text import documents_to_text

_KINDS: dict[str, Callable[[ClusterRun], list[Tree]]] = {
    "mpijob": mpi_job,
    "mpijob-elastic": elastic_mpi_job,
    "trainjob": train_job,
    "job": indexed_job,
}
_NAMESPACE, _CPUS, _MEMORY_GIB = "training", 8, 32  # of a run; of each worker
_HOROVODRUN_S = 60  # between its SIGTERM and its SIGKILL, in the build that the image has


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "manifest",
        help="write a run as a Kubernetes job, with the numbers of its plan",
        description="Writes what `kubectl apply` takes: the job, its settings and its network policy.",
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--workers", metavar="W", help="workers: 256, or 128,30:256 (default: the configuration's fleet)"
    )
    parser.add_argument("--per-node", type=int, metavar="N", help="workers of a node, and GPUs of a pod")
    parser.add_argument(
        "--kind",
        choices=sorted(_KINDS),
        default="mpijob",
        help="mpijob: horovodrun, with Kubeflow's MPI operator; mpijob-elastic: whose workers come and go; trainjob: "
        "torchrun, with Kubeflow Trainer; job: torchrun without an operator [%(default)s]",
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="a file of `trainer calibrate`, for the grace period and the predicted time",
    )
    parser.add_argument("--image", help="the container image (default: this version's, at registry.example.com)")
    parser.add_argument("--name", help="of the job (default: the configuration's name)")
    parser.add_argument("--namespace", default=_NAMESPACE, help="[%(default)s]")
    parser.add_argument("--cpus", type=int, default=_CPUS, metavar="N", help="cores of a worker [%(default)s]")
    parser.add_argument("--memory", type=int, default=_MEMORY_GIB, metavar="GIB", help="of a worker [%(default)s]")
    parser.add_argument("--out", metavar="DIR", help="write a folder for kustomize (default: one text to stdout)")
    parser.add_argument(
        "--check",
        action="store_true",
        help="instead: check manifests (files, or - for stdin) for what no schema sees, such as numbers that disagree",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.check:
        return check(args.words)
    _check_options(args)
    config = load_from_arguments(args)
    timing = open_timing(config, args.calibration, args.per_node)
    if timing is not None:
        config = timing.fit(config)
    fleet = _fleet(args.workers, config)
    plan = plan_for_fleet(config, known_dataset_size(config), fleet)
    job = _cluster_run(args, config, timing, plan)
    documents = [*_KINDS[args.kind](job), network_policy(job)]
    found = problems([settings(job), *documents], SHARED_PARTS)
    if found:  # such as an image without a version
        raise ManifestError(str(found[0]))
    comment = _comment(args, job, plan, timing, policy_in_short(config, plan))
    if args.out is None:
        print(comment)
        sys.stdout.write(documents_to_text([settings(job), *documents]))
        return 0
    for file in _write(Path(args.out), folder_texts(job, documents, comment)):
        print(file)
    print(f"to run it: kubectl apply -k {shlex.quote(args.out)}")
    return 0


def _write(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Writes the files, or writes them anew, and touches no others; where they are.

    Raises ManifestError, before anything is written, where the folder is not one that this wrote.
    """
    kustomization = folder / KUSTOMIZATION
    try:
        if folder.exists() and any(folder.iterdir()):
            is_ours = kustomization.is_file() and kustomization.read_text(encoding="utf-8").startswith(MARK)
            if not is_ours:
                raise ManifestError(f"--out {folder}: holds something else than a run's manifests: name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_file(folder / name, text.encode())
        for name in set(SETTINGS_FILES) - texts.keys():  # of a run before
            (folder / name).unlink(missing_ok=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise ManifestError(f"--out {folder}: cannot be written ({reason}): name another folder") from None
    return [folder / name for name in texts]


def _check_options(args: argparse.Namespace) -> None:
    if args.per_node is None:
        raise ManifestError("--per-node is missing: give the workers of a node, as many as it has GPUs")
    for option in ("per_node", "cpus", "memory"):
        if getattr(args, option) < 1:
            raise ManifestError(f"--{option.replace('_', '-')} {getattr(args, option)}: give 1 or more")


def _fleet(workers: str | None, config: TrainConfig) -> Fleet:
    if workers is not None:
        return parse_fleet(workers)
    if config.fleet is None:
        raise ManifestError("--workers is missing, and the configuration has no fleet: give the number of workers")
    return Fleet(config.fleet)


def _cluster_run(args: argparse.Namespace, config: TrainConfig, timing: Timing | None, plan: RunPlan) -> ClusterRun:
    measured = None
    if timing is not None:
        measured = max(phase.update.seconds for phase in timing.predict(plan).phases), timing.times.epoch_s
    return cluster_run(
        config,
        plan.fleet,
        args.per_node,
        keeps_size=args.kind != "mpijob-elastic",
        grace_s=grace_s(measured, config.hang_timeout_s),
        name=args.name,
        namespace=args.namespace,
        image=args.image,
        cpus=args.cpus,
        memory_gib=args.memory,
        calibration=None if timing is None else read_text(timing.source),
    )


def _comment(
    args: argparse.Namespace, run: ClusterRun, plan: RunPlan, timing: Timing | None, policy: str | None
) -> str:
    """What the numbers are, and where they come from. policy: what to know of it, where the run may differ."""
    batches = " to ".join(f"{batch:,}" for batch in dict.fromkeys(phase.global_batch for phase in plan.phases))
    lines = [
        f"{MARK} {shlex.join(_told(args))}",
        f"# {plan.fleet}, {run.per_node} a node; batch {batches}; {plan.total_updates:,} updates",
    ]
    if policy is not None:
        lines.append(f"# {policy}")
    if timing is None:
        lines.append(f"# {run.grace_s} s from SIGTERM to SIGKILL: nothing was measured (--calibration)")
    else:
        lines.append(f"# {summary(timing.predict(plan), None)}; {run.grace_s} s from SIGTERM to SIGKILL")
        lines.append(f"# times: {timing}")
    if args.kind.startswith("mpijob") and run.grace_s > _HOROVODRUN_S:
        lines.append(f"# of which horovodrun leaves {_HOROVODRUN_S} s to workers where the launcher itself is ended")
    for step in plan.fleet.steps[1:]:
        nodes = step.workers // run.per_node
        patch = f'{{"spec": {{"mpiReplicaSpecs": {{"Worker": {{"replicas": {nodes}}}}}}}}}'
        job = f"-n {run.namespace} patch mpijob {run.name}"
        lines.append(f"# epoch {step.epoch} waits for: kubectl {job} --type merge -p '{patch}'")
    return "\n".join(map(fit_to_print, lines))  # names of files may hold anything


def _told(args: argparse.Namespace) -> list[str]:
    """The arguments, as they may be given again."""
    options = {
        "--workers": args.workers,
        "--per-node": str(args.per_node),
        "--kind": args.kind,
        "--calibration": args.calibration,
        "--image": args.image,
        "--name": args.name,
        "--namespace": args.namespace if args.namespace != _NAMESPACE else None,
        "--cpus": str(args.cpus) if args.cpus != _CPUS else None,
        "--memory": str(args.memory) if args.memory != _MEMORY_GIB else None,
    }
    return [*args.words, *(word for option, value in options.items() if value for word in (option, value))]
