#!/bin/sh
# transfer/kernels/build.sh: what clang makes of the copy kernel, without CUDA and without ROCm.
#
#   build.sh ptx FILE     NVIDIA's text, which is committed, by clang-19, so that it is the same everywhere
#   build.sh clang        the newest clang that also links for AMD (needs its ld.lld); nothing where there is none
#   build.sh amd FOLDER   code objects of all ARCHITECTURES that this clang knows, kv_copy.<architecture>.co, and
#                         amd_images.inc, which lists them; an empty list where there is no such clang
#
# Run from the top. CLANG=clang-20: that one instead of those looked for.
set -eu

CLANGS='clang-22 clang-21 clang-20 clang-19 clang-18 clang-17 clang'
ARCHITECTURES='gfx908 gfx90a gfx942 gfx950 gfx1030 gfx1100 gfx1101 gfx1200 gfx1201'
SOURCE=transfer/kernels/kv_copy.gpu
FLAGS='-ffreestanding -I. -Wall -Wextra -Werror -O3'

# PTX 7.0 of sm_80: what every driver since 450 translates, for every GPU since A100.
ptx() {
	"${CLANG:-clang-19}" -x cuda --cuda-device-only -nocudainc -nocudalib --cuda-path=/nonexistent \
		--cuda-gpu-arch=sm_80 -Xclang -target-feature -Xclang +ptx70 $FLAGS -S -o "$1" "$SOURCE"
}

clang_find() {
	for clang in ${CLANG:-$CLANGS}; do
		path=$(command -v "$clang") || continue
		linker=$("$path" -print-prog-name=ld.lld) || continue
		if [ -x "$linker" ]; then
			echo "$path $("$path" -dumpversion)"
			return
		fi
	done
}

# Objects of version 4 are read by ROCm 4.1 and all that came after. No cuid: it is made from paths.
object() {
	"$1" -x hip --cuda-device-only -nogpulib -nogpuinc --no-gpu-bundle-output --offload-arch="$2" \
		-fuse-cuid=none -mcode-object-version=4 $FLAGS -o "$3" "$SOURCE"
}

objects() {
	known=$("$1" --target=amdgcn-amd-amdhsa -nogpulib --print-supported-cpus 2>&1 || true)
	for architecture in $ARCHITECTURES; do
		echo "$known" | grep -qw "$architecture" || continue
		object "$1" "$architecture" "$2/kv_copy.$architecture.co"
		echo "AMD_IMAGE($architecture)"
	done
}

case ${1:-} in
ptx)
	ptx "$2" ;;
clang)
	clang_find ;;
amd)
	found=$(clang_find)
	mkdir -p "$2"
	{ [ -z "$found" ] || objects "${found% *}" "$2"; } > "$2/amd_images.inc.new"
	mv "$2/amd_images.inc.new" "$2/amd_images.inc" ;;
*)
	sed -n '2,/^set/{/^#/p}' "$0" | sed 's/^# \{0,1\}//' >&2
	exit 2 ;;
esac
