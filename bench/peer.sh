#!/bin/sh
# bench/peer.sh BUILD: measures blocks between two nodes beside plain sockets and plain UCX, in one run: on loopback
# (BUILD/bench/peer.json), and messages over a veth pair between network namespaces (BUILD/bench/peer-veth.json),
# which needs root and iproute2.
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
netns=kvtier-bench-$$
bench_pid=
clean_up() {
	trap - EXIT INT TERM HUP
	if [ -n "$bench_pid" ]; then   # and the daemon that it measures
		# shellcheck disable=SC2046  # a list of process ids
		kill "$bench_pid" $(cat "/proc/$bench_pid/task/$bench_pid/children") 2>/dev/null || true
	fi
	wait 2>/dev/null || true
	rm -rf "$folder"
	ip netns delete "$netns" 2>/dev/null || true   # its end of the pair goes with it
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

veth() {
	ip netns add "$netns" && ip link add "kvb$$" type veth peer name eth0 netns "$netns" &&
		ip address add 10.213.77.1/24 dev "kvb$$" && ip link set "kvb$$" up &&
		ip -n "$netns" address add 10.213.77.2/24 dev eth0 && ip -n "$netns" link set eth0 up
}
if ! why=$(veth 2>&1); then
	echo "bench: SKIPPED the veth pair: $(echo "$why" | tail -1)" >&2
	exit "$status"
fi
echo "over a veth pair:"
"$build/kvtier-bench" peer --kvtierd "$build/kvtierd" --directory "$folder" --netns "$netns" \
	--host 10.213.77.1 --ucx-devices "eth0,kvb$$" --json "$build/bench/peer-veth.json" || status=$?
echo "bench: written to $build/bench/peer-veth.json"
exit "$status"
