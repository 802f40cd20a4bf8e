#!/bin/sh
# bench/rivals/run.sh BUILD: installs the peers that install in seconds into BUILD/rivals, and
# measures kvtier beside them. Writes BUILD/bench/rivals.json.
# RIVALS_ONLY=scene,scene  RIVALS_SAMPLES=11  RIVALS_SET_BYTES=67108864  RIVALS_LMCACHE=1
# PYTHON=python3.11
set -eu

build=${1:?usage: bench/rivals/run.sh BUILD}
build=$(cd "$build" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
venv=$build/rivals

for program in kvtierd libkvtier.so; do
	if [ ! -e "$build/$program" ]; then
		echo "rivals: $build/$program is not there; build it first (make)" >&2
		exit 1
	fi
done
if [ ! -x "$venv/bin/python" ] && ! "$python" -m venv "$venv"; then
	echo "rivals: no Python virtual environment can be made; is python3-venv installed?" >&2
	exit 1
fi

peers=
# $1: the peer, $2: what to import, the rest: what pip installs. What cannot be had is skipped.
peer() {
	name=$1 module=$2
	shift 2
	if ! "$venv/bin/python" -c "import $module" >/dev/null 2>&1 &&
	   ! timeout 600 "$venv/bin/pip" install -q --disable-pip-version-check "$@" \
		> "$venv/$name.log" 2>&1; then
		echo "rivals: SKIPPED $name, pip install $* failed: $(tail -1 "$venv/$name.log")" >&2
		return
	fi
	if ! why=$("$venv/bin/python" -c "import $module" 2>&1); then
		echo "rivals: SKIPPED $name, it does not load: $(echo "$why" | tail -1)" >&2
		return
	fi
	peers="$peers $name"
}
peer mooncake mooncake.store mooncake-transfer-engine-non-cuda==0.3.13.post1
# NIXL's front names a CUDA package; the library under it is all that its POSIX back end needs.
peer nixl nixl_cu13._api --no-deps nixl-cu13==1.5.1 numpy

if [ "${RIVALS_LMCACHE:-0}" = 1 ]; then   # 6 GB, as it pulls a machine learning framework
	lmcache=$build/rivals-lmcache
	[ -x "$lmcache/bin/python" ] || "$python" -m venv "$lmcache"
	if [ -x "$lmcache/bin/lmcache" ] ||
	   timeout 1800 "$lmcache/bin/pip" install -q --disable-pip-version-check --no-cache-dir \
		lmcache==0.5.6 > "$venv/lmcache.log" 2>&1; then
		export RIVALS_LMCACHE_PROGRAM="$lmcache/bin/lmcache"
	else
		echo "rivals: SKIPPED lmcache, pip install failed: $(tail -1 "$venv/lmcache.log")" >&2
	fi
else
	echo "rivals: SKIPPED lmcache; RIVALS_LMCACHE=1 installs it (6 GB)" >&2
fi

# Some of the peers listen on every address whatever they are told: in a network of their own nobody
# hears them. Only root has one without other rights changing, too.
inside=
if [ "$(id -u)" -eq 0 ] && unshare --net true 2>/dev/null; then
	inside="unshare --net"
else
	echo "rivals: no network namespace; for the time of the run peers may listen on every address" >&2
fi
# Compiled modules would lie in the source tree.
export PYTHONDONTWRITEBYTECODE=1
# shellcheck disable=SC2086  # lists of words
exec $inside "$venv/bin/python" "$here/rivals.py" "$build" $peers
