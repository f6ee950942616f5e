#!/usr/bin/env bash
# Predicted against measured time of a run whose batch grows.
#
#     benchmarks/predicted_time.sh DATA [ROUNDS [LAUNCHER ...]]        benchmarks/predicted_time.sh cifar10 3 horovodrun -np 2
#
# DATA is the folder of CIFAR-10. Every round calibrates anew and then trains, as a user would; the comparison at the end
# shows the mean and the spread of both.
set -euo pipefail
export PATH="$(realpath "${VENV:-.venv}")/bin:$PATH" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
data=$(realpath "${1:?name the folder of CIFAR-10}") rounds=${2:-3}
launcher=("${@:3}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

recipe=(cifar10-increase-batch data.path="$data" model.name=plain-convnet model.ghost_batch=64 schedule.epochs=6
  schedule.curve.drops.0.epoch=2 schedule.curve.drops.1.epoch=4 schedule.curve.drops.2.epoch=5
  schedule.limits.max_micro_batch=320 schedule.limits.max_global_batch=5000)
for round in $(seq "$rounds"); do
  file=$folder/$round.json
  "${launcher[@]}" trainer calibrate "${recipe[@]}" --output "$file" >"$folder/calibrate-$round.txt"
  "${launcher[@]}" trainer train "${recipe[@]}" seed="$round" calibration="$file" output="$folder/runs" \
    tracking.mlflow=off >"$folder/train-$round.txt"
done
trainer compare "$folder/runs" --output "$folder/report" | grep -v '^Page and figures' # which are not kept
