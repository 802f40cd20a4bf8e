#!/bin/sh
# bench/core.sh BUILD: measures the core beside what the machine gives, on the disk that BUILD lies
# on, and writes BUILD/bench/core.json.
set -eu

build=${1:?usage: bench/core.sh BUILD}
build=$(cd "$build" && pwd)
for program in kvtierd kvtier-bench; do
	if [ ! -x "$build/$program" ]; then
		echo "bench: $build/$program is not there; build it first (make)" >&2
		exit 1
	fi
done

folder=$(mktemp -d "$build/bench-core.XXXXXX")
bench_pid=
clean_up() {
	trap - EXIT INT TERM HUP
	if [ -n "$bench_pid" ]; then   # and the daemon that it measures
		# shellcheck disable=SC2046  # a list of process ids
		kill "$bench_pid" $(cat "/proc/$bench_pid/task/$bench_pid/children") 2>/dev/null || true
	fi
	wait 2>/dev/null || true
	rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

mkdir -p "$build/bench"
rm -f "$build/bench/core.json"
"$build/kvtier-bench" micro --kvtierd "$build/kvtierd" --directory "$folder" \
	--json "$build/bench/core.json" &
bench_pid=$!
status=0
wait "$bench_pid" || status=$?
bench_pid=
if [ ! -s "$build/bench/core.json" ]; then
	echo "bench: nothing was written; kvtier-bench micro ended with status $status" >&2
	[ "$status" -ne 0 ] || status=1
	exit "$status"
fi
echo "bench: written to $build/bench/core.json"
exit "$status"
