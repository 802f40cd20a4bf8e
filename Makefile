# make            build build/kvtierd, build/kvtier, build/kvtier-bench, build/libkvtier.so
# make demo       install what is missing, build, and replay a workload through a daemon that is killed in the middle
# make test       install what is missing, build, and run every suite
# make help       the rest
#
# Variables: CC=clang  SANITIZE=address,undefined (or thread; a build folder of its own)  FAILPOINTS=1 (named failpoints)
#            BUILD=folder  WERROR=1  DESTDIR=  PREFIX=/usr/local

VERSION  := 0.1.0
comma    := ,
BUILD    ?= build$(if $(SANITIZE),/$(subst $(comma),+,$(SANITIZE)),$(if $(FAILPOINTS),/failpoints))
PREFIX   ?= /usr/local
CFLAGS   ?= -O2 -g
WARNINGS := -Wall -Wextra -Wshadow -Wundef -Wvla -Wstrict-prototypes -Wmissing-prototypes
override CPPFLAGS += -I. -D_GNU_SOURCE -DKVTIER_VERSION='"$(VERSION)"' -DKVTIER_FAILPOINTS=$(if $(or $(FAILPOINTS),$(SANITIZE)),1,0)
override CFLAGS   += -std=gnu11 $(WARNINGS) $(if $(WERROR),-Werror) -UNDEBUG -fPIC -fvisibility=hidden -pthread \
		     -fno-omit-frame-pointer -MMD -MP $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all)
override LDFLAGS  += -pthread $(if $(SANITIZE),-fsanitize=$(SANITIZE))

# Everything but the mains goes into one archive; a program takes from it what it names.
folders := base proto index transfer tiers tiers/cpu tiers/nvme tiers/fault daemon client bench
mains   := daemon/main.c client/kvtier_main.c bench/main.c
optional_sources := tiers/nvme/block_io_uring.c tiers/nvme/catalog_rocksdb.c
sources := $(filter-out $(mains) $(optional_sources),$(wildcard $(addsuffix /*.c,$(folders))))

# $(call optional,PACKAGES,MACRO,SOURCES): where pkg-config knows PACKAGES, build SOURCES too.
define optional
ifeq ($$(shell pkg-config --exists '$(1)' && echo yes),yes)
  override CPPFLAGS += -D$(2)=1
  LDLIBS  += $$(shell pkg-config --libs '$(1)')
  sources += $(3)
else
  override CPPFLAGS += -D$(2)=0
endif
endef
$(eval $(call optional,liburing >= 2.3,HAVE_IO_URING,tiers/nvme/block_io_uring.c))
$(eval $(call optional,rocksdb,HAVE_ROCKSDB,tiers/nvme/catalog_rocksdb.c))
LDLIBS  += -lyaml -lcrypto -lz -ljansson -lm

objects  := $(sources:%.c=$(BUILD)/%.o)
programs := $(BUILD)/kvtierd $(BUILD)/kvtier $(BUILD)/kvtier-bench
# What libkvtier is made of: nothing but libc below it.
library_sources := $(filter-out $(mains),$(wildcard client/kvtier*.c)) proto/frames.c transfer/slot_header.c \
		   $(addprefix base/,error.c clock.c random.c checksum.c copy.c)
library_objects := $(library_sources:%.c=$(BUILD)/%.o)

all: $(programs) $(BUILD)/libkvtier.so $(BUILD)/libkvtier.a

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
$(BUILD)/libkvtier.a: $(library_objects)
	@rm -f $@
	ar rcs $@ $^

test_sources := $(wildcard tests/*/test_*.c)
tests   := $(test_sources:%.c=$(BUILD)/%)
$(tests): %: %.o $(BUILD)/libparts.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) $$(pkg-config --libs cmocka)
tests: $(tests)

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<
$(BUILD)/flags: FORCE   # changes only when the flags do; then everything is rebuilt
	@mkdir -p $(@D) && echo '$(CC) $(CPPFLAGS) $(CFLAGS)' > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

clean:
	rm -rf build

.PHONY: all tests clean FORCE
.SECONDARY:
-include $(objects:.o=.d) $(mains:%.c=$(BUILD)/%.d) $(tests:=.d)
