#!/usr/bin/env bash
# Renders, trains, scores and measures on a machine without network, from what scripts/bundle.sh packed: docs/cluster.md.
#
#   gpu_session.sh ARCHIVE_OR_DIR --preset P --seconds N --out DIR [--work DIR] [--rig RIG] [--windows W]
#                  [--bench "P[:BATCH] ..."] [-- OPTIONS OF TRAIN]
#
# --seconds  of training; the same command goes on where it was stopped, as long as --work is kept
# --out      results: at most eight files of at most 16 MiB
# --work     everything else; default $TMPDIR/geo4d_session
# --rig      cameras to train on; default those that the dataset names. What is scored keeps its own.
# --windows  held-out windows that are scored, of seen and of novel cameras each; default 64
# --bench    presets that 'bench preset' measures, with a batch size; default all of them on a GPU (svd where transformers and
#            torchao are there), else the one that is trained
#
# A stage that takes longer than its limit (seconds: RENDER_S, EVALUATE_S, BENCH_S, and N and half of it and TRAIN_S) is
# ended. One that fails leaves the others their results. Exit status: 0 all is well, 1 a stage failed, 2 nothing was begun.
set -uo pipefail
export LC_ALL=C
RENDER_S=${RENDER_S:-900} TRAIN_S=${TRAIN_S:-300} EVALUATE_S=${EVALUATE_S:-600} BENCH_S=${BENCH_S:-180}
MOST_MIB=16 MOST_SHARDS=4
ALL_PRESETS="dit_nano:64 dit:64 dit_large:16 layered_nano:64 layered_small:16 unet_nano:16"
# What the machine itself has to have, module=package.
NODE="torch numpy h5py scipy pandas PIL=pillow cv2=opencv-python-headless skimage=scikit-image joblib psutil yaml=PyYAML
  safetensors matplotlib accelerate tqdm"

die() { echo "gpu_session.sh: $*" >&2; exit 2; }

source="" preset="" seconds="" out="" work=${TMPDIR:-/tmp}/geo4d_session rig=() windows=64 bench="" training=()
while [ $# -gt 0 ]; do
  case $1 in
    --preset) preset=${2:-} ;;
    --seconds) seconds=${2:-} ;;
    --out) out=${2:-} ;;
    --work) work=${2:-} ;;
    --rig) rig=(--rig "${2:-}") ;;
    --windows) windows=${2:-} ;;
    --bench) bench=${2:-} ;;
    --) shift; training=("$@"); break ;;
    -*) die "there is no option $1; see the head of $0" ;;
    *) [ -z "$source" ] || die "two archives, $source and $1; give one"; source=$1; shift; continue ;;
  esac
  shift 2 || die "$1 needs a value"
done
[ -n "$source" ] && [ -n "$preset" ] && [ -n "$out" ] || die "expected ARCHIVE_OR_DIR --preset P --seconds N --out DIR"
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "--seconds is '$seconds', expected a whole number from 1"
[ -e "$source" ] || die "$source: no such archive or folder; scripts/bundle.sh makes one"
python=${PYTHON:-python3}
mkdir -p "$out" "$work" || die "--out and --work must be folders that can be written"
out=$(cd "$out" && pwd) work=$(cd "$work" && pwd)

# The bundle, unpacked once and whole.
if [ -d "$source" ]; then
  bundle=$(cd "$source" && pwd)
else
  bundle=$work/bundle-$(sha256sum "$source" | cut -c1-16)
  if [ ! -d "$bundle" ]; then
    rm -rf "$bundle.part"
    mkdir "$bundle.part"
    "$python" -W ignore -m tarfile -e "$source" "$bundle.part" || die "$source: cannot be unpacked; copy it again"
    mv "$bundle.part" "$bundle"
  fi
fi
[ -f "$bundle/SHA256SUMS" ] || die "$source: is no bundle of scripts/bundle.sh"
(cd "$bundle" && sha256sum --check --quiet --strict SHA256SUMS) || die "$source: was changed after it was packed; copy it again"
work=$work/$(sha256sum "$bundle/SHA256SUMS" | cut -c1-16)
logs=$work/logs
mkdir -p "$logs"

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = "$(cat "$bundle/python")" ] || die "$python is $version, but the packages are for $(cat "$bundle/python"); name another with PYTHON=, or bundle.sh --python $version"
# Nothing is imported from the working directory, which may be a clone.
export PYTHONPATH=$bundle/site PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 MUJOCO_GL=${MUJOCO_GL:-egl}
# shellcheck disable=SC2086  # words
missing=$("$python" - $NODE <<'PYTHON'
import importlib.util, sys
pairs = [name.partition("=") for name in sys.argv[1:]]
print(*(package or module for module, _, package in pairs if importlib.util.find_spec(module) is None))
PYTHON
)
[ -z "$missing" ] || die "this machine lacks $missing; pack them too: bundle.sh --also '$missing'"
size=$("$python" -c 'import sys; from geo4d_bench.model.generators import find_config; c = find_config(sys.argv[1]); print("--height", c.height, "--width", c.width)' "$preset" 2>"$logs/preset.log") \
  || die "$(tail -n 1 "$logs/preset.log")"
device=$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')

# OpenGL: a driver without loaders (as in containers) gets ours; one that no vendor file names gets one.
ldconfig -p 2>/dev/null | grep -q 'libEGL\.so\.1 ' || export LD_LIBRARY_PATH=$bundle/gl${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
vendors=$(ls /etc/glvnd/egl_vendor.d/*.json /usr/share/glvnd/egl_vendor.d/*.json 2>/dev/null | paste -sd:)
if [ "$device" = cuda ] && [ -z "${__EGL_VENDOR_LIBRARY_FILENAMES:-}" ] && [[ $vendors != *nvidia* ]]; then
  driver=$(ls /usr/local/nvidia/lib64/libEGL_nvidia.so.0 /usr/local/nvidia/lib/libEGL_nvidia.so.0 2>/dev/null | head -n 1)
  echo '{"file_format_version": "1.0.0", "ICD": {"library_path": "'"${driver:-libEGL_nvidia.so.0}"'"}}' >"$work/nvidia.json"
  export __EGL_VENDOR_LIBRARY_FILENAMES=$work/nvidia.json${vendors:+:$vendors}
fi

stages=$work/stages.csv failed=0 stopped=0 child=""
echo "stage,exit,seconds,limit_s" >"$stages"
trap 'stopped=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' INT TERM

stage() {  # NAME LIMIT_S COMMAND...: run it with its own log and note how it ended
  local name=$1 limit=$2 began=$SECONDS code=143
  shift 2
  if [ "$stopped" = 0 ]; then
    timeout --kill-after=30 "$limit" "$@" >"$logs/$name.log" 2>&1 &
    child=$!
    while wait "$child"; code=$?; kill -0 "$child" 2>/dev/null; do :; done  # a signal interrupts wait
    child=""
  fi
  echo "$name,$code,$((SECONDS - began)),$limit" >>"$stages"
  case $code in
    0) echo "$name: done in $((SECONDS - began)) s" ;;
    124 | 137) failed=1; echo "$name: ended after its limit of $limit s" ;;
    *) failed=1; echo "$name: failed (exit $code): $(tail -n 1 "$logs/$name.log" 2>/dev/null)" ;;
  esac
  collect
  return "$code"
}

collect() {  # what there is, into --out
  local file
  for file in "$stages" "$work/bench/bench.csv" "${evaluation:-}/metrics.csv"; do
    [ ! -f "$file" ] || cp "$file" "$out"
  done
  (cd "$work" && find logs runs bench evaluation-* -type f ! -name '*.safetensors' ! -name '.*' ! -name '*.mp4' -size -4096k 2>/dev/null \
    | tar -czf "$out/session.tar.gz" -C "$bundle" commit -C "$work" -T -)
  [ "$(stat -c %s "$out/session.tar.gz")" -le $((MOST_MIB * 1048576)) ] || tar -czf "$out/session.tar.gz" -C "$work" logs
}

checkpoint=$work/runs/$(basename "$preset" .json) evaluation=""
geo4d=("$python" -m geo4d_bench)
echo "$("$python" -V), torch $("$python" -c 'import torch; print(torch.__version__)'), $device, $(nproc) processors, geo4d-bench $(cat "$bundle/commit")"
stage opengl 120 "$python" -c 'from geo4d_bench.rendering.opengl import require_opengl; require_opengl()'
cat "$logs/opengl.log"

train_data="" eval_data=""
for folder in "$bundle"/data/*; do
  [ -f "$folder/manifest.json" ] || continue
  name=$(basename "$folder") drawn=$work/data-${rig[1]:-own}/$(basename "$folder") cameras=(${rig[@]+"${rig[@]}"})
  case $name in *_eval) eval_data=$drawn cameras=() ;; *) train_data=$drawn ;; esac
  # shellcheck disable=SC2086  # words
  stage "render-$name" "$RENDER_S" "${geo4d[@]}" render "$folder" $size ${cameras[@]+"${cameras[@]}"} --out "$drawn" --workers "$(nproc)"
done

if [ -n "$train_data" ]; then
  minutes=$(awk "BEGIN { print $seconds / 60 }")
  stage train $((seconds * 3 / 2 + TRAIN_S)) "${geo4d[@]}" train --data "$train_data" --preset "$preset" \
    --minutes "$minutes" --out "$checkpoint" ${training[@]+"${training[@]}"}
fi
if [ -f "$checkpoint/model.safetensors" ]; then
  evaluation=$work/evaluation-$(sha256sum "$checkpoint/model.safetensors" | cut -c1-12)
  [ -z "$eval_data" ] || stage evaluate "$EVALUATE_S" "${geo4d[@]}" evaluate --checkpoint "$checkpoint" --data "$eval_data" \
    --windows "$windows" --device "$device" --out "$evaluation"
  rm -rf "$work/shards" "$out"/model-*-of-*.safetensors
  if stage weights 300 "${geo4d[@]}" checkpoint split "$checkpoint" --out "$work/shards" --max-mib "$MOST_MIB" --bf16; then
    shards=$(find "$work/shards" -name '*.safetensors' | wc -l)
    if [ "$shards" -le "$MOST_SHARDS" ]; then
      cp "$work/shards"/* "$out"
    else
      failed=1
      echo "weights: $shards files of $MOST_MIB MiB, expected at most $MOST_SHARDS; they stay in $checkpoint"
    fi
  fi
fi
measured=$preset
if [ "$device" = cuda ]; then
  [[ " $ALL_PRESETS" == *" $preset:"* ]] && measured=$ALL_PRESETS || measured="$preset $ALL_PRESETS"
  "$python" -c 'import torchao, transformers' 2>/dev/null && measured="$measured svd:1"
fi
for item in ${bench:-$measured}; do
  [[ $item == *:* ]] && batch=(--batch-size "${item##*:}") || batch=()
  stage "bench-$(basename "${item%%:*}" .json)" "$BENCH_S" "${geo4d[@]}" bench preset --preset "${item%%:*}" --device "$device" \
    --out "$work/bench" ${batch[@]+"${batch[@]}"}
done
collect
[ -n "$train_data" ] || echo "the bundle has no demonstrations: nothing was trained"
ls -l "$out"
exit "$failed"
