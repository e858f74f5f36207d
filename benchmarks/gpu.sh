#!/usr/bin/env bash
# Everything that needs a GPU, in one call: the kernel's tests, compute-sanitizer, the benchmarks.
#
#     benchmarks/gpu.sh [FOLDER [DATA]]        # where the figures go; benchmarks/results if none is given
#
# DATA holds CIFAR-10 and a ResNet-56 as benchmarks/cifar10.py wants them; without it nothing is trained.
#
# The package need not be installed, torch and pytest must be. Goes on after a failure; at the end it says what
# failed, and what was left out because a tool is missing, and exits with 1 if anything failed.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
results=${1:-benchmarks/results}
failed=() left_out=()

step() { # step NAME COMMAND...
  local name=$1 started=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  if "$@"; then
    printf -- '-- %s: passed (%ss)\n' "$name" "$((SECONDS - started))"
  else
    printf -- '-- %s: FAILED with %s (%ss)\n' "$name" "$?" "$((SECONDS - started))"
    failed+=("$name")
  fi
}

find_sanitizer() {
  local packages candidate
  packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
  for candidate in "$(command -v compute-sanitizer)" "${CUDA_HOME:-/usr/local/cuda}"/bin/compute-sanitizer \
    "$packages"/nvidia/*/bin/compute-sanitizer; do
    [[ -x $candidate ]] && echo "$candidate" && return
  done
}

step "the machine" "$python" benchmarks/gpu_work.py --about
step "tests on the GPU" "$python" -m pytest -m gpu -p no:cacheprovider tests/compressor/kernels/test_cuda.py \
  tests/profiles/test_machine.py

sanitizer=$(find_sanitizer)
if [[ -z $sanitizer ]]; then
  left_out+=("compute-sanitizer: not installed here")
elif ! "$sanitizer" --error-exitcode 9 "$python" -c 'import torch; torch.ones(9, device="cuda").sum().item()'; then
  left_out+=("compute-sanitizer: cannot watch even torch alone here (its words are above)") # some sandboxes refuse
else
  for tool in memcheck racecheck initcheck synccheck; do
    # Without torch's pool every tensor is an allocation of its own, so that a read past its end is seen.
    step "compute-sanitizer $tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" \
      --error-exitcode 9 --print-limit 20 "$python" benchmarks/gpu_work.py
  done
fi

if device=$("$python" benchmarks/gpu_work.py --name) && mkdir -p "$results"; then
  step "benchmark" "$python" benchmarks/saliency.py --json "$results/saliency-$device-$(date +%F).json"
  if [[ -n ${2:-} ]]; then
    step "training" "$python" benchmarks/training.py --data "$2" --json "$results/training-$device-$(date +%F).json"
    step "accuracy" "$python" benchmarks/cifar10.py --data "$2" --epochs "${EPOCHS:-20}" --seeds "${SEEDS:-0}" \
      --json "$results/cifar10-$device-$(date +%F).json"
  else
    left_out+=("training and accuracy: no DATA was given")
  fi
else
  failed+=("benchmark: no CUDA device")
fi

printf '\n== done in %ss\n' "$SECONDS"
((${#left_out[@]} == 0)) || printf 'left out: %s\n' "${left_out[@]}"
((${#failed[@]} == 0)) || { printf 'failed: %s\n' "${failed[@]}"; exit 1; }
