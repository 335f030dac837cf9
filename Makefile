# SPDX-License-Identifier: GPL-2.0
#
# What a person types; the work is in Kbuild and tools/. `make help` lists it.

KDIR ?= /lib/modules/$(shell uname -r)/build
export KSRC RELEASE DESTDIR PREFIX

.DEFAULT_GOAL := module
.PHONY: all module install uninstall install-dkms install-tests kvm-modules provision run shell test stock soak td tdx-host tdx-coverage bench lint mutations bisect doc rust-analyzer clean help

# --- the module alone: needs nothing but a build tree of a kernel with Rust

cache := $(or $(PRIVMEMFD_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/privmemfd)
config = $(KDIR)/include/config/auto.conf

# A module comes from its kernel's own compiler: LLVM= as that was called, or
# as the user says.
clang_version = $(shell sed -n 's/^CONFIG_CC_VERSION_TEXT=.*clang version \([0-9]*\)\..*/\1/p' $(config) 2>/dev/null)
llvm = $(if $(clang_version),$(or $(LLVM),$(if $(shell command -v clang-$(clang_version)),-$(clang_version),1)))
libclang = $(wildcard /usr/lib/llvm-$(clang_version)/lib)
bindgen = $(or $(BINDGEN),$(firstword $(wildcard $(cache)/bindgen/bin/bindgen) bindgen))
# A tree of stock-kdir.sh may name the unpacked Debian that has the compilers.
kbuild = $(if $(wildcard $(KDIR)/toolchain), \
	tools/build/in-root.sh $(KDIR)/toolchain make -j$(shell nproc), \
	$(if $(libclang),LIBCLANG_PATH=$(libclang)) $(MAKE) $(if $(llvm),LLVM=$(llvm)) BINDGEN=$(bindgen)) \
	-C $(KDIR) M=$(CURDIR) $(if $(MO),MO=$(abspath $(MO)))

all: module

module: check-kdir
	+$(kbuild) modules

.PHONY: check-kdir
check-kdir:
	@tools/build/check-kdir.sh "$(KDIR)"

# The module, privmemctl and what belongs to it, below DESTDIR= and PREFIX=.
install: module
	@MO="$(if $(MO),$(abspath $(MO)))" tools/install/install.sh install "$(KDIR)"

uninstall:
	@tools/install/install.sh uninstall

install-dkms:
	@tools/install/install.sh dkms

# The self-tests as a kselftest collection, for the machine that it is copied to.
install-tests:
	@tools/install/tests.sh

# --- everything else

# make kvm-modules KDIR= KSRC= [OUT=] [SW_PROTECTED=1]
kvm-modules: check-kdir
	@[ -n "$(KSRC)" ] || { echo "error: KSRC is not set"; \
		echo "       give the full source of the kernel: make kvm-modules KDIR=... KSRC=/path/to/linux"; exit 1; } >&2
	@tools/build/kvm-modules.sh $(if $(SW_PROTECTED),--sw-protected) "$(KDIR)" "$(KSRC)" $(OUT)

provision:
	@tools/build/provision.sh

run soak bench stock shell:
	@tools/vm/$@.sh

test:
	@tools/vm/$(if $(ONLY),only,test).sh

tdx-host:
	@tools/bochs-tdx/run.sh $(if $(DEBUG),--debug)

# SHELL=1 asks for a shell in the TD; make itself needs its own.
ifeq ($(origin SHELL),command line)
export TD_SHELL := $(SHELL)
override SHELL := /bin/sh
endif
# $ in CMD= is for the shell in the VM, not for make.
ifeq ($(origin CMD),command line)
override CMD := $(value CMD)
endif
export VCPUS MIB NUMA CMD ONLY BASE PROFILE

td:
	@tools/bochs-tdx/td.sh

tdx-coverage:
	@tools/bochs-tdx/coverage.sh

lint:
	@tools/lint/lint.sh

mutations:
	@tools/tdx-emu/mutations.sh
	@tools/vm/mutations.sh
	@tools/bochs-tdx/mutations.sh

bisect:
	@tools/build/bisect-series.sh

doc:
	@tools/lint/doc.sh

rust-analyzer:
	@tools/build/rust-analyzer.sh

clean:
	rm -rf build tools/target
	[ ! -f "$(config)" ] || $(MAKE) module-clean

.PHONY: module-clean
module-clean:
	+$(kbuild) clean

help:
	@echo 'make run          a guest keeps its bytes while the host moves them: the whole show, in a VM'
	@echo "                  (MIB=, VCPUS= of the guest, NUMA= nodes; KERNEL=stock: Debian's own, or plain)"
	@echo 'make shell        a VM with KVM and the module loaded, and a prompt;'
	@echo "                  CMD='...' runs one command (MIB=, VCPUS=, NUMA= of the VM; KERNEL=plain|debug|stock)"
	@echo 'make test         every test, in a VM with a debug kernel; last line: N passed, N failed, N skipped'
	@echo "                  ONLY='race_test closing' [KERNEL=plain|debug|stock]: some cases of one program, in seconds"
	@echo "make stock        the self-tests and the show's first act on Debian's own kernel, unmodified"
	@echo '                  (RELEASE=, as uname -r says; build/stock.json)'
	@echo 'make soak         [OPS=N] [SEED=N] [MOVES=N] [DEBUG=1]: random operations against a model, a million'
	@echo '                  relocations of each backend (build/soak.json, build/soak/soak.svg)'
	@echo 'make tdx-host     TDs run by KVM itself on an emulated TDX host, while their pages move'
	@echo 'make tdx-host DEBUG=1'
	@echo '                  the same on the debug kernel'
	@echo 'make td           Debian as a TD, unmodified, there: its memory moves from its firmware on'
	@echo '                  (VCPUS=, MIB=; SHELL=1: a shell in the TD; VMM=alioth: another VMM, firmware only)'
	@echo 'make tdx-coverage which lines of KVM and of our patches that executes'
	@echo 'make bench        instructions per page of a move, beside ordinary memory (build/bench.json)'
	@echo '                  and what a vCPU waits; pictures in build/bench/'
	@echo '                  BASE=REV: beside the modules of that revision'
	@echo '                  PROFILE=1: by function (build/profile.json; flame graphs in build/bench/profile/)'
	@echo 'make lint         every checker'
	@echo 'make mutations    breaks the backend, KVM and the emulated host, and sees that the tests notice'
	@echo "make bisect       each patch of the KVM series: builds, and passes KVM's own tests"
	@echo 'make doc          the documentation of the code, and of the project if Sphinx is there'
	@echo 'make rust-analyzer'
	@echo '                  rust-project.json: rust/ and src/ in an editor'
	@echo 'make KDIR=...     privmemfd.ko for a built kernel (default: the running one)'
	@echo 'make kvm-modules KDIR=... KSRC=... [OUT=...] [SW_PROTECTED=1]'
	@echo '                  kvm.ko and the vendor modules with our patches; prints their folder;'
	@echo '                  SW_PROTECTED=1: with software-protected VMs, if the kernel has none'
	@echo 'make install KDIR=... [DESTDIR=] [PREFIX=/usr/local]'
	@echo '                  the module, privmemctl, man pages, completions, udev rule; make uninstall'
	@echo 'make install-dkms [DESTDIR=]'
	@echo '                  the sources of the module for dkms install privmemfd/VERSION'
	@echo 'make install-tests DESTDIR=...'
	@echo '                  the self-tests as a kselftest collection, for a machine of your own'
	@echo 'make provision    packages, bindgen, rust-src and the kernel source, nothing else'
	@echo 'make clean        removes what was built here; the kernels stay in $(cache)'
	@echo
	@echo 'KSRC=             your own Linux source instead of a downloaded one'
	@echo 'PRIVMEMFD_CACHE=  where kernels and tools are kept'
