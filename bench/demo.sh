#!/bin/sh
# bench/demo.sh BUILD: replays a workload through a real daemon that is killed by kill -9 in the middle and started
# again, and checks every byte that comes back. Writes BUILD/demo.json. Everything else lies in a folder that is removed
# at the end, with all that was started. Status 0: no wrong block, hits from nvme, and hits after the restart.
set -eu

build=${1:?usage: bench/demo.sh BUILD}
build=$(cd "$build" && pwd)
top=$(cd "$(dirname "$0")/.." && pwd)
requests=${KVTIER_DEMO_REQUESTS:-1000}
seconds_max=120                 # of the replay; the whole demo stays under 3 minutes
trace=$top/../shared/traces/mooncake_conversation.jsonl.gz

for program in kvtierd kvtier-bench; do
	if [ ! -x "$build/$program" ]; then
		echo "demo: $build/$program is not there; build it first (make)" >&2
		exit 1
	fi
done

folder=$(mktemp -d "${TMPDIR:-/tmp}/kvtier-demo.XXXXXX")
daemon_pid=
replay_pid=
clean_up() {
	trap - EXIT INT TERM HUP
	[ -z "$replay_pid" ] || kill "$replay_pid" 2>/dev/null || true
	[ -z "$daemon_pid" ] || kill "$daemon_pid" 2>/dev/null || true
	wait 2>/dev/null || true
	rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

cat > "$folder/kvtierd.yaml" <<END
run_directory: $folder/run
state_directory: $folder/state
http_listen: ""
extent_bytes: 4MiB
block_bytes_min: 16KiB            # what the index is sized for
tenants:
  - name: default
    cpu_bytes: 64MiB
nvme:
  - path: $folder/nvme
    bytes: 512MiB
END
mkdir "$folder/run" "$folder/state"
socket=$folder/run/t/default/kv.sock

milliseconds() {
	echo $(($(date +%s%N) / 1000000))
}

# Starts the daemon and waits, at most 30 s, until it says that it is ready. Sets daemon_pid and ready_ms.
start_daemon() {
	started=$(milliseconds)
	: > "$folder/log"
	"$build/kvtierd" --config "$folder/kvtierd.yaml" 2> "$folder/log" &
	daemon_pid=$!
	waited=0
	until grep -q 'event=ready' "$folder/log"; do
		if ! kill -0 "$daemon_pid" 2>/dev/null || [ "$waited" -ge 3000 ]; then
			echo "demo: kvtierd did not become ready:" >&2
			tail -20 "$folder/log" >&2
			exit 1
		fi
		sleep 0.01
		waited=$((waited + 1))
	done
	ready_ms=$(($(milliseconds) - started))
}

# The number behind a key of the replay's JSON.
figure() {
	sed -n "s/^ *\"$1\": \([0-9.e+-]*\),\{0,1\}\$/\1/p" "$build/demo.json" | head -1
}

if [ ! -r "$trace" ]; then
	echo "demo: no recorded trace at hand, so a workload is generated"
	trace=$folder/workload.jsonl.gz
	"$build/kvtier-bench" generate --mix chat,agentic --users 4 --requests "$requests" --seed 7 --output "$trace"
fi

echo "demo: a daemon with 64 MiB of memory and 512 MiB of nvme, $requests requests of $(basename "$trace")"
start_daemon
echo "demo: ready in $ready_ms ms"

rm -f "$build/demo.json"
# Small blocks at 15 times the trace's speed: also a slow disk of a small machine keeps up, and memory overflows.
timeout "$seconds_max" "$build/kvtier-bench" replay --trace "$trace" --block-tokens 512 --block-bytes 16KiB \
	--socket "$socket" --limit "$requests" --processes 2 --speed 15 --away-ms 200 \
	--mark-at $((requests / 2)) --mark "$folder/half" --json "$build/demo.json" \
	> "$folder/replay" 2> "$folder/replay.errors" &
replay_pid=$!

# The replay makes the file when half of the requests are through.
while [ ! -e "$folder/half" ] && kill -0 "$replay_pid" 2>/dev/null; do
	sleep 0.01
done
if kill -0 "$replay_pid" 2>/dev/null; then
	kill -9 "$daemon_pid"
	wait "$daemon_pid" 2>/dev/null || true
	echo "demo: killed the daemon by kill -9"
	start_daemon
	echo "demo: restarted, ready in $ready_ms ms: $(grep -o 'restored_[a-z]*=[0-9]*' "$folder/log" | tr '\n' ' ')"
fi

status=0
wait "$replay_pid" || status=$?
replay_pid=
cat "$folder/replay"
cat "$folder/replay.errors" >&2
if [ "$status" -ne 0 ] || [ ! -s "$build/demo.json" ]; then
	echo "demo: the replay failed with status $status; the daemon's last lines:" >&2
	tail -20 "$folder/log" >&2
	exit 1
fi

wrong=$(figure wrong_blocks)
nvme=$(figure hit_tokens_nvme)
cpu=$(figure hit_tokens_cpu)
after=$(figure hit_tokens_after_return)
echo "demo: hits: $cpu tokens from cpu, $nvme from nvme, $after of them after the restart"
echo "demo: loads at $(figure load_gb_s) GB/s; restart in $ready_ms ms; $wrong wrong blocks"
[ "$wrong" -eq 0 ] || { echo "demo: FAILED: wrong blocks" >&2; exit 1; }
[ "$nvme" -gt 0 ] || { echo "demo: FAILED: nothing was hit on nvme" >&2; exit 1; }
[ "$after" -gt 0 ] || { echo "demo: FAILED: nothing was hit after the restart" >&2; exit 1; }
