#!/usr/bin/env bash
# The main job on two workers, three times: the same fall of the SGD noise scale by a smaller learning rate, by a bigger
# batch, and by both; then the three side by side. `make demo` sets up first.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$(realpath "${VENV:-.venv}")/bin:$PATH"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
unset MLFLOW_TRACKING_URI  # the demo keeps its runs in runs/, whatever server there may be

if python -c 'import horovod.torch' 2>/dev/null; then
  launch=(horovodrun -np 2 trainer)
else
  echo "Horovod is not built here (it needs a C++ compiler: apt-get install g++, then make setup): using torchrun"
  launch=(torchrun --standalone --nproc-per-node 2 -m trainer)
fi

for preset in digits-decay-lr digits-hybrid digits-increase-batch; do
  echo
  echo "\$ ${launch[*]} train $preset"
  "${launch[@]}" train "$preset"
done

echo
echo "\$ trainer compare --experiment digits"
trainer compare --experiment digits
echo
echo "The runs are in runs/. To look at them in MLflow: make dashboard"
