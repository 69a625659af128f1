#!/usr/bin/env bash
# Counts the instructions of each piece of work on the way of a call, and compares them with bench/instructions.tsv.
#
#   ./scripts/instructions.sh [--write] [BENCH...]
#   ./scripts/instructions.sh --where BENCH
#
# Fails when one takes more than 5% more than is written down. `--write` writes down what they take now. `--where` says which
# functions the instructions of a bench are spent in.
#
# Each bench (src/benching.rs) runs under valgrind twice, the second time five times as often; a quarter of the difference is what
# its work costs. No clock is in it, so a busy machine says the same as a quiet one. What the kernel does is not counted.
#
# Figures hold for one version of rustc and of the C library, and one kind of processor. Where these are others, what the figures were
# written down for (the commit that last changed them) is built and counted here as well, which takes some minutes.
set -euo pipefail
# shellcheck source=scripts/lib/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/tools.sh"
cd "$ROOT"

GROWTH_MAX_PERCENT=5
TABLE=bench/instructions.tsv

writes=false
where=
wanted=()
while [[ $# != 0 ]]; do
  case $1 in
    --write) writes=true ;;
    --where)
      [[ $# == 2 ]] || fail "--where needs the name of one bench"
      where=$2
      shift
      ;;
    -*) fail "there is no option $1; see the first lines of this script" ;;
    *) wanted+=("$1") ;;
  esac
  shift
done

folder=$(mktemp -d)
base=
finish() {
  [[ -z $base ]] || git worktree remove --force "$base"
  rm -rf "$folder"
}
trap finish EXIT

# What figures hold for.
circumstances() {
  local libc=unknown extras=
  ! has ldd || libc=$(ldd --version 2>&1 | awk 'NR == 1 { print $NF }')
  # The widest that valgrind knows.
  ! grep -qw avx2 /proc/cpuinfo || extras=avx2
  rustc -vV | awk -v libc="$libc" -v extras="$extras" '
    { sub(/:$/, "", $1); it[$1] = $2 }
    END { print "rustc", it["release"], substr(it["commit-hash"], 1, 9), it["host"], "libc", libc, extras }'
}

# build SOURCE TARGET: builds the benches of the sources in a folder, and prints where the program is.
build() {
  local messages
  messages=$(cd "$1" && RUSTC_WORKSPACE_WRAPPER=$ROOT/scripts/lib/benching CARGO_TARGET_DIR=$2 \
    cargo build --release --locked --quiet --example instructions --message-format json) || fail "the benches could not be built"
  sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$messages"
}

# instructions PROGRAM BENCH TIMES: those of a whole process.
instructions() {
  local said
  if ! said=$(timeout 300 valgrind --tool=callgrind --callgrind-out-file=/dev/null "$@" 2>&1); then
    printf '%s\n' "$said" >&2
    return 1
  fi
  sed -n 's/.*Collected : \([0-9]*\).*/\1/p' <<<"$said"
}

# count PROGRAM BENCH TIMES: prints the bench and what its work costs.
count() {
  local few many
  few=$(instructions "$1" "$2" "$3") && many=$(instructions "$1" "$2" $((5 * $3))) || return 1
  printf '%s\t%d\n' "$2" $(((many - few) / (4 * $3)))
}
export -f count instructions

# count_all PROGRAM FILE: all that are wanted, in the order of the program.
count_all() {
  local name times
  while read -r name times; do
    [[ ${#wanted[@]} == 0 || " ${wanted[*]} " == *" $name "* ]] || continue
    printf '%s\0%s\0%s\0' "$1" "$name" "$times"
  done < <("$1" --list) >"$folder/jobs"
  # shellcheck disable=SC2016
  xargs -0 -n 3 -P "$(nproc)" bash -c 'count "$@"' _ <"$folder/jobs" >"$folder/counted" || fail "not everything could be counted"
  while read -r name _; do grep -P "^$name\t" "$folder/counted" || true; done < <("$1" --list) >"$2"
}

# The figures to compare with, as they stand or as they are here.
expected() {
  local written commit
  written=$(sed -n 's/^# //p;q' "$TABLE")
  if [[ $written == "$(circumstances)" ]]; then
    grep -v '^#' "$TABLE"
    return
  fi
  say "the figures are for: $written"
  say "and this is:         $(circumstances)"
  commit=$(git log -1 --format=%H -- "$TABLE" 2>/dev/null) || true
  [[ -n $commit ]] || fail "without the history of $TABLE there is nothing to compare with"
  say "so commit ${commit:0:9} is counted here too"
  base=$TARGET/instructions/base
  git worktree remove --force "$base" 2>/dev/null || true
  git worktree add --quiet --detach --force "$base" "$commit"
  count_all "$(build "$base" "$TARGET/instructions/target")" "$folder/base.tsv"
  cat "$folder/base.tsv"
}

system_package valgrind valgrind || fail "valgrind is missing; install it, or run this as root on a system with apt"

if [[ -n $where ]]; then
  export CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=line-tables-only
  program=$(build "$ROOT" "$TARGET/instructions/where")
  times=$("$program" --list | awk -v name="$where" '$1 == name { print 5 * $2 }')
  [[ -n $times ]] || fail "there is no bench $where; there are: $("$program" --list | awk '{ print $1 }' | paste -sd ' ')"
  valgrind --quiet --tool=callgrind --callgrind-out-file="$folder/profile" "$program" "$where" "$times"
  callgrind_annotate --show-percs=yes --threshold=90 "$folder/profile"
  exit
fi

count_all "$(build "$ROOT" "$TARGET")" "$folder/now.tsv"
if $writes; then
  [[ ${#wanted[@]} == 0 ]] || fail "all of them are written down together"
  { echo "# $(circumstances)"; cat "$folder/now.tsv"; } >"$TABLE"
  cat "$TABLE"
  exit
fi
expected >"$folder/expected.tsv"
awk -F '\t' -v max="$GROWTH_MAX_PERCENT" '
  NR == FNR { expected[$1] = $2; next }
  !($1 in expected) { printf "%-26s %12d  is not written down\n", $1, $2; n_failed++; next }
  {
    change = 100 * ($2 - expected[$1]) / expected[$1]
    verdict = max < change ? "TOO MUCH" : change < -max ? "less: write it down" : ""
    printf "%-26s %12d %12d %+7.1f%%  %s\n", $1, expected[$1], $2, change, verdict
    n_failed += max < change
  }
  END { exit 0 < n_failed }
' "$folder/expected.tsv" "$folder/now.tsv" || fail "more instructions than written down in $TABLE; mend it, or accept it with --write and say why"
