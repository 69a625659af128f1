#!/usr/bin/env bash
# Runs the fuzz targets of fuzz/ under libFuzzer and its AddressSanitizer, one after the other.
#
#   ./scripts/fuzz.sh [--seconds 120] [TARGET...]
#
# It needs a nightly toolchain (`rustup toolchain install nightly`), and installs cargo-fuzz into target/ when that is
# missing. Inputs that were worth keeping stay in fuzz/corpus, beside the seeds; one that fails is in fuzz/artifacts. The
# first build takes a quarter of an hour.
set -euo pipefail
# shellcheck source=scripts/lib/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/tools.sh"
cd "$ROOT"

seconds=120
targets=()
while [[ $# != 0 ]]; do
  case $1 in
    --seconds)
      [[ $# != 1 ]] || fail "$1 needs a value"
      seconds=$2
      shift 2
      ;;
    -*) fail "there is no option $1; see the first lines of this script" ;;
    *)
      targets+=("$1")
      shift
      ;;
  esac
done
if [[ ${#targets[@]} == 0 ]]; then
  for source in fuzz/targets/*.rs; do targets+=("$(basename "$source" .rs)"); done
fi

cargo +nightly --version >/dev/null 2>&1 || fail "there is no nightly toolchain: rustup toolchain install nightly"
export PATH=$PATH:$TOOLS/cargo/bin
has cargo-fuzz || cargo install --quiet --locked --root "$TOOLS/cargo" cargo-fuzz
# SQLite has two constants with one name in its one file, which the sanitizer takes for a fault of linking.
export ASAN_OPTIONS=detect_odr_violation=0
# The targets have a folder for what is built of their own, because of the sanitizer.
unset CARGO_TARGET_DIR

failed=()
for target in "${targets[@]}"; do
  say "--- $target"
  mkdir -p "fuzz/corpus/$target"
  cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    -max_total_time="$seconds" -max_len=2048 -verbosity=0 -print_final_stats=1 || failed+=("$target")
done
[[ ${#failed[@]} == 0 ]] || fail "failed: ${failed[*]}; the inputs are in fuzz/artifacts"
