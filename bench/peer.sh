#!/bin/sh
# bench/peer.sh BUILD: measures blocks between two nodes on loopback beside plain sockets and plain UCX, in
# one run, and writes BUILD/bench/peer.json.
set -eu

build=${1:?usage: bench/peer.sh BUILD}
build=$(cd "$build" && pwd)
for program in kvtierd kvtier-bench; do
	if [ ! -x "$build/$program" ]; then
		echo "bench: $build/$program is not there; build it first (make)" >&2
		exit 1
	fi
done

folder=$(mktemp -d "$build/bench-peer.XXXXXX")
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
rm -f "$build/bench/peer.json"
"$build/kvtier-bench" peer --kvtierd "$build/kvtierd" --directory "$folder" \
	--json "$build/bench/peer.json" &
bench_pid=$!
status=0
wait "$bench_pid" || status=$?
bench_pid=
if [ ! -s "$build/bench/peer.json" ]; then
	echo "bench: nothing was written; kvtier-bench peer ended with status $status" >&2
	[ "$status" -ne 0 ] || status=1
	exit "$status"
fi
echo "bench: written to $build/bench/peer.json"
exit "$status"
