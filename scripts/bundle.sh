#!/usr/bin/env bash
# Packs what a machine without network needs for scripts/gpu_session.sh into one archive: docs/cluster.md.
#
#   scripts/bundle.sh OUT.tar.xz [DATA] [--python 3.12] [--also "PACKAGE ..."]
#
# DATA       a dataset, with images or without; its states travel, and those of DATA_eval where that is there
# --python   version of the Python there
# --also     packages that the machine lacks besides PACKAGES below
set -euo pipefail
export LC_ALL=C PYTHONSAFEPATH=1
root=$(cd "$(dirname "$0")/.." && pwd)
MOST_BYTES=$((${BUNDLE_MIB:-60} * 1024 * 1024))
# What a machine for PyTorch lacks of what rendering, training and scoring import; gpu_session.sh names what else they need.
PACKAGES="annotated-types certifi charset-normalizer cloudpickle diffusers docstring_parser Farama-Notifications
  fast-simplification gymnasium hdf5plugin idna imageio importlib_metadata mujoco pydantic pydantic_core PyOpenGL requests
  small_gicp trimesh typeguard typing_extensions typing-inspection tyro urllib3 zipp"

die() { echo "bundle.sh: $*" >&2; exit 2; }

version=3.12 also="" positional=()
while [ $# -gt 0 ]; do
  case $1 in
    --python) version=${2:?--python needs a version}; shift 2 ;;
    --also) also=${2:?--also needs packages}; shift 2 ;;
    -*) die "there is no option $1; the options are --python and --also" ;;
    *) positional+=("$1"); shift ;;
  esac
done
[ ${#positional[@]} -ge 1 ] && [ ${#positional[@]} -le 2 ] || die "expected OUT.tar.xz [DATA], got '${positional[*]}'"
out=${positional[0]} data=${positional[1]:-}
[ -z "$data" ] || [ -f "$data/manifest.json" ] || die "$data is no dataset; make one with 'geo4d-bench datagen --views none'"
python=${PYTHON:-$root/.venv/bin/python}
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
"$python" -c 'import geo4d_bench' 2>/dev/null || die "$python has no geo4d-bench; run 'make setup', or name another with PYTHON="

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
bundle=$stage/bundle site=$stage/bundle/site
mkdir -p "$site" "$stage/source"

echo "code: $(git -C "$root" describe --always --dirty)"
(cd "$root" && git ls-files -z -- pyproject.toml README.md LICENSE geo4d_bench tasks datagen policies \
  | tar --null -T - -cf - | tar -xf - -C "$stage/source")
"$python" -m pip install -q --no-deps --no-compile --no-build-isolation --target "$site" "$stage/source"
cp "$root/scripts/gpu_session.sh" "$bundle"
printf '%s\n' "$(git -C "$root" describe --always --dirty)" >"$bundle/commit"
printf '%s\n' "$version" >"$bundle/python"

echo "packages for Python $version on x86-64 Linux"
platforms=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
for minor in 34 31 28 27 24 17 12 5; do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done
# shellcheck disable=SC2086  # words
"$python" -m pip install -q --no-deps --no-compile --only-binary=:all: --implementation cp --python-version "$version" \
  "${platforms[@]}" -c "$root/constraints.txt" --target "$stage/packages" $PACKAGES $also
cp -r "$stage/packages/." "$site"
rm -rf "$site/bin" "$site"/*/tests
# Of HDF5's filters the one that episodes use; the others are 180 MB.
find "$site/hdf5plugin/plugins" -type f ! -name libh5zstd.so -delete
sed -i -E "s/'embedded_filters': \([^)]*\)/'embedded_filters': ('zstd',)/" "$site/hdf5plugin/_config.py"
grep -q "'embedded_filters': ('zstd',)" "$site/hdf5plugin/_config.py" || die "hdf5plugin is of another layout; mend bundle.sh"

# The loaders of OpenGL, for machines that have a driver without them, as containers do.
mkdir "$bundle/gl"
for library in libEGL.so.1 libGLdispatch.so.0 libOpenGL.so.0; do
  path=$(ldconfig -p | awk -v name="$library" '$1 == name && /x86-64/ { print $NF; exit }')
  [ -z "$path" ] || cp -L "$path" "$bundle/gl/$library"
done

for folder in ${data:+"$data" "${data%/}_eval"}; do
  [ -f "$folder/manifest.json" ] || { echo "no $folder: nothing will be scored there"; continue; }
  "$python" -m geo4d_bench render "$folder" --views none --out "$bundle/data/$(basename "$folder")" --workers 1 2>"$stage/log" \
    | sed -n 1p || die "$(tail -n 1 "$stage/log")"
done

(cd "$bundle" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS)
pack() {
  tar -C "$bundle" --sort=name --owner=0 --group=0 --mtime=@0 -cf - "$@" | "$python" -c 'import lzma, os, shutil, sys
with lzma.open(sys.stdout.buffer, "w", preset=int(os.environ.get("XZ_PRESET", "6"))) as packed:
    shutil.copyfileobj(sys.stdin.buffer, packed, 2**20)'
}
mkdir -p "$(dirname "$out")"
pack . >"$stage/packed"
size=$(stat -c %s "$stage/packed")
if [ "$size" -gt "$MOST_BYTES" ]; then
  {
    echo "bundle.sh: $((size / 1024)) KiB packed, expected at most $((MOST_BYTES / 1024)); give fewer episodes. What takes how much, packed:"
    (cd "$bundle" && du -s --apparent-size -k site/* data/* gl 2>/dev/null || true) | sort -rn | head -n 12 | while read -r _ part; do
      printf '  %8d KiB  %s\n' $(($(pack "$part" | wc -c) / 1024)) "$part"
    done
  } >&2
  exit 2
fi
mv "$stage/packed" "$out"
chmod 644 "$out"
echo "$out: $((size / 1024)) KiB, $(wc -l <"$bundle/SHA256SUMS") files"
echo "there: scripts/gpu_session.sh $(basename "$out") --preset dit_nano --seconds 600 --out results"
