// SPDX-License-Identifier: GPL-2.0
/*
 * unflushed-slot [SECONDS]: does a vCPU write to memory that has left its file?
 *
 * A guest_memfd backs two memslots: a page in which the vCPU counts, and 128 MiB
 * that have page tables but no pages. One thread has the user addresses of both unmapped,
 * over and over: KVM zaps the page in the first memslot, walks the page tables of the
 * second, finds nothing to zap, and drops mmu_lock on the way if somebody wants it.
 * That is the other thread, which punches a hole where the page is in the file. It has
 * a reference to the page, by a pipe, and looks at it when the hole is there, and when
 * KVM has done with both memslots: nobody may have written to it any more.
 *
 * Nothing is mapped at the user addresses. If the page was, unmapping it would
 * interrupt the CPU that runs the vCPU; emulators flush its translations then.
 *
 * Exit code: 0 nobody did, 1 the vCPU did, 2 the test could not be run.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define CODE 0x1000UL
#define COUNTER 0x200000UL
#define REST 0x40000000UL
#define REST_SIZE 0x8000000UL
#define LEAF_TABLE 0x200000UL
/*
 * us until the hole. How long KVM takes to get to the second memslot is not known, and
 * the next tick of the vCPU's CPU may end what is to be seen.
 */
#define SHORTEST_DELAY 20
#define DELAYS 9

static int vm, vcpu, file;
static char *area;
static atomic_ulong round_nr, rounds_done;
static atomic_bool stop;

#define CHECK(x) ({ __typeof__(x) _r = (x); if (_r < 0) err(2, "%s", #x); _r; })

static void slot(int id, uint64_t gpa, void *hva, uint64_t size, int gmem, uint64_t offset)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = id,
		.flags = gmem < 0 ? 0 : KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)hva,
		.guest_memfd = gmem,
		.guest_memfd_offset = offset,
	};

	CHECK(ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region));
}

static void *map(size_t size, int prot, int flags, int fd)
{
	void *at = mmap(NULL, size, prot, flags, fd, 0);

	if (at == MAP_FAILED)
		err(2, "mmap");
	return at;
}

/* Protected mode, all of memory in flat segments, no paging. */
static void make_vcpu(void)
{
	struct kvm_segment data = {
		.limit = ~0U, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1,
	};
	struct kvm_segment code = data;
	struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
	struct kvm_sregs sregs;

	code.selector = 8;
	code.type = 11;
	vcpu = CHECK(ioctl(vm, KVM_CREATE_VCPU, 0));
	CHECK(ioctl(vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs = code;
	sregs.ds = data;
	sregs.es = data;
	sregs.fs = data;
	sregs.gs = data;
	sregs.ss = data;
	sregs.cr0 |= 1;
	CHECK(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	CHECK(ioctl(vcpu, KVM_SET_REGS, &regs));
}

static void *count(void *unused)
{
	while (!stop)
		if (ioctl(vcpu, KVM_RUN, 0))
			err(2, "KVM_RUN");
	return NULL;
}

static void *unmap(void *unused)
{
	unsigned long n = 0;

	for (;;) {
		while (round_nr == n)
			;
		if (stop)
			return NULL;
		n = round_nr;
		CHECK(madvise(area, PAGE + REST_SIZE, MADV_DONTNEED));
		rounds_done = n;
	}
}

static uint32_t look(int pipe)
{
	uint32_t page[PAGE / 4];

	if (read(pipe, page, PAGE) != PAGE)
		err(2, "read");
	return page[0];
}

static void spin(unsigned long us)
{
	struct timespec start, now;

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
		now.tv_nsec += (now.tv_sec - start.tv_sec) * 1000000000;
	} while (now.tv_nsec - start.tv_nsec < (long)us * 1000);
}

int main(int argc, char **argv)
{
	/* inc dword [COUNTER]; jmp to it */
	static const char code[] = { 0xff, 0x05, 0, 0, COUNTER >> 16, 0, 0xeb, 0xf8 };
	struct kvm_create_guest_memfd create = {
		.size = PAGE + REST_SIZE,
		.flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,
	};
	struct kvm_pre_fault_memory fault;
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 30);
	unsigned long rounds = 0, hits = 0;
	pthread_t counter, unmapper;
	int kvm, pipes[2];
	char *first;

	kvm = CHECK(open("/dev/kvm", O_RDWR));
	vm = CHECK(ioctl(kvm, KVM_CREATE_VM, 0));
	file = CHECK(ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create));
	area = map(PAGE + REST_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	first = map(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memcpy(first, code, sizeof(code));
	slot(0, CODE, first, PAGE, -1, 0);
	slot(1, COUNTER, area, PAGE, file, 0);
	slot(2, REST, area + PAGE, REST_SIZE, file, PAGE);
	make_vcpu();

	/* Page tables for the second memslot. */
	for (fault.gpa = REST; fault.gpa < REST + REST_SIZE;) {
		uint64_t next = fault.gpa + LEAF_TABLE;

		fault.size = PAGE;
		fault.flags = 0;
		memset(fault.padding, 0, sizeof(fault.padding));
		CHECK(ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &fault));
		fault.gpa = next;
	}
	CHECK(pipe(pipes));
	if (pthread_create(&counter, NULL, count, NULL) ||
	    pthread_create(&unmapper, NULL, unmap, NULL))
		errx(2, "pthread_create");

	for (; time(NULL) < end; rounds++) {
		/* The counter's page as the file has it now. */
		atomic_uint *now = map(PAGE, PROT_READ, MAP_SHARED, file);
		struct iovec iov = { now, PAGE };
		unsigned long delay;
		uint32_t before, after;

		while (*now < 1000)
			if (time(NULL) > end + 10)
				errx(2, "the vCPU does not count");
		for (int i = 0; i < 2; i++)
			if (vmsplice(pipes[1], &iov, 1, 0) != PAGE)
				err(2, "vmsplice");
		munmap(now, PAGE);
		round_nr = rounds + 1;
		/* KVM has unmapped the first memslot, and not all of the second. */
		delay = SHORTEST_DELAY << rounds % DELAYS;
		spin(delay + rounds * 137 % delay);
		CHECK(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE));
		before = look(pipes[0]);
		while (rounds_done != rounds + 1)
			;
		after = look(pipes[0]);
		hits += before != after;
	}
	printf("%lu holes punched, the vCPU has written to %lu pages that had left the file\n",
	       rounds, hits);
	/* The threads go with the process. */
	return hits != 0;
}
