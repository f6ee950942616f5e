#!/usr/bin/env bash
# The CIFAR-10 experiments of arXiv:1711.00489, each a sweep and its comparison; taken up again where it was interrupted.
#
# usage: paper.sh small|full DATA [PART|key.sub=value ...]     SEEDS, LAUNCHER and OUTPUT from the environment
#
# DATA   the folder of the official batches, or one with train/<class>/* and test/<class>/*
# small  for two cores and some hours: small-convnet, a twentieth of the epochs with the drops in proportion (at 3, 6 and 8 of
#        10.24), ghost batch 64, which is what each of two workers has of a batch of 128
# full   the paper's own: Wide ResNet 16-4, 204.8 epochs, ghost batch 128, in bfloat16; on one GPU, since several workers
#        would share a batch of 128 and with it the ghost batch
# PART   schedules   section 5.1: decaying lr, hybrid, increasing batch
#        optimizers  the same with Nesterov, plain SGD and Adam, one seed
#        bolder      section 5.2: original, increasing batch, increased initial lr, increased momentum
#        first-lr    the first lr, with the batch in proportion, against accuracy
#        noise       the measured gradient noise: schedules that do not listen to it beside those that do; ghost batch 64
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$(realpath "${VENV:-.venv}")/bin:$PATH"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
unset MLFLOW_TRACKING_URI  # everything stays in the output folder

size=${1-} data=${2-}
parts=() overrides=()
for word in "${@:3}"; do
  case $word in *=*) overrides+=("$word") ;; *) parts+=("$word") ;; esac
done
[ -d "$data" ] || { echo "paper.sh: '$data' is no folder: name the one of CIFAR-10, DATA=DIR" >&2; exit 2; }
seeds=${SEEDS:-3}
output=${OUTPUT:-runs/paper-$size}

common=("data.path=$(realpath "$data")" "output=$output" precision=bfloat16)
case $size in
  small)
    two_workers="horovodrun -np 2"
    python -c 'import horovod.torch' 2>/dev/null || two_workers="torchrun --standalone --nproc-per-node 2"
    launcher=${LAUNCHER-$two_workers}
    common+=(model.name=small-convnet model.ghost_batch=64 schedule.limits.max_micro_batch=320 target_top1=0.65
      schedule.epochs=10.24 schedule.curve.drops.0.epoch=3 schedule.curve.drops.1.epoch=6 schedule.curve.drops.2.epoch=8)
    [ ${#parts[@]} -gt 0 ] || parts=(schedules optimizers bolder first-lr noise)
    ;;
  full)
    launcher=${LAUNCHER-}
    common+=(model.ghost_batch=128)
    [ ${#parts[@]} -gt 0 ] || parts=(schedules bolder noise)
    ;;
  *) echo "paper.sh: $size: neither small nor full" >&2; exit 2 ;;
esac

sweep() {  # NAME SEEDS WORD...
  local name=$1 count=$2
  shift 2
  echo
  echo "# $name"
  # A run that diverges is a result: the sweep says so with 1, and is compared like the others.
  local code=0
  trainer sweep "$@" "${common[@]}" "${overrides[@]}" --name "$name" --seeds "$count" --launcher "$launcher" || code=$?
  [ $code -le 1 ] || exit $code
  trainer compare "$output/$name" --output "$output/$name/report"
}

for part in "${parts[@]}"; do
  case $part in
    schedules | optimizers | bolder | first-lr | noise) ;;
    *) echo "paper.sh: $part: no such part: schedules, optimizers, bolder, first-lr or noise" >&2; exit 2 ;;
  esac
done

three=(cifar10-decay-lr cifar10-hybrid cifar10-increase-batch)
for part in "${parts[@]}"; do
  case $part in
    schedules) sweep momentum "$seeds" "${three[@]}" ;;
    optimizers)
      sweep nesterov 1 "${three[@]}" optimizer.name=nesterov
      sweep sgd 1 "${three[@]}" optimizer.name=sgd schedule.reference.momentum=0
      sweep adam 1 "${three[@]}" optimizer.name=adam schedule.reference.lr=0.001
      ;;
    bolder)
      sweep bolder "$seeds" \
        cifar10-original cifar10-increase-batch-capped cifar10-increased-initial-lr cifar10-increased-momentum
      ;;
    first-lr)
      sweep first-lr "$seeds" cifar10-original experiment=cifar10-first-lr --vary schedule.start.lr=0.1,0.2,0.4,0.8,1.6,3.2
      ;;
    noise)
      sweep noise "$seeds" "${three[@]}" cifar10-measured cifar10-adascale experiment=cifar10-noise model.ghost_batch=64
      sweep noise-bolder "$seeds" cifar10-measured experiment=cifar10-noise schedule.start.lr=0.4
      ;;
  esac
done

echo
echo "Pages and figures: $output/*/report/report.html"
