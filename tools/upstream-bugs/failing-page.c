// SPDX-License-Identifier: GPL-2.0
/*
 * failing-page [TRIES]: memory of a guest_memfd fails while a hole is punched there.
 *
 * Needs CONFIG_MEMORY_FAILURE and CAP_SYS_ADMIN. The last line is "result: good" if
 * both have ended, each time, or "result: bad" below the kernel's stacks of a
 * deadlock, from which there is no way out but a reboot.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096UL
#define SIZE (16UL << 20)
#define PATIENCE 20

static char *memory;
static int file;
static atomic_ulong punching, punched, failed;
static atomic_int puncher, handler;

static void *punch(void *unused)
{
	unsigned long n = 0;

	puncher = syscall(SYS_gettid);
	for (;;) {
		while (punching == n)
			;
		n = punching;
		if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE))
			err(2, "fallocate");
		punched = n;
	}
}

/* Makes pages fail: those of the end, which the hole reaches last. */
static void *fail(void *unused)
{
	unsigned long n = 0;

	handler = syscall(SYS_gettid);
	for (;;) {
		while (punching == n)
			;
		n = punching;
		for (unsigned long i = 0; i < (n * 997) % 100000; i++)
			asm volatile("pause");
		/* Too late is no error: the page is gone. */
		madvise(memory + SIZE - PAGE, PAGE, MADV_HWPOISON);
		failed = n;
	}
}

/* Whoever makes a page fail that is mapped is told so, as if it had used the page. */
static void told(int sig, siginfo_t *info, void *context)
{
	if (syscall(SYS_gettid) == handler && info->si_code == BUS_MCEERR_AR)
		return;
	psiginfo(info, "somebody used the page");
	_exit(2);
}

static void show_stack(const char *what, pid_t tid)
{
	char path[64], line[256];
	FILE *stack;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stack", tid);
	stack = fopen(path, "r");
	printf("%s:\n", what);
	while (stack && fgets(line, sizeof(line), stack))
		printf("  %s", line);
}

int main(int argc, char **argv)
{
	unsigned long tries = argc > 1 ? strtoul(argv[1], NULL, 0) : 20;
	struct kvm_create_guest_memfd create = {
		.size = SIZE,
		.flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,
	};
	struct sigaction action = { .sa_sigaction = told, .sa_flags = SA_SIGINFO };
	pthread_t threads[2];
	int kvm, vm;

	kvm = open("/dev/kvm", O_RDWR);
	vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
	file = vm < 0 ? -1 : ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create);
	if (file < 0)
		err(2, "a guest_memfd that can be mapped");
	sigaction(SIGBUS, &action, NULL);
	if (pthread_create(&threads[0], NULL, punch, NULL) ||
	    pthread_create(&threads[1], NULL, fail, NULL))
		errx(2, "pthread_create");

	for (unsigned long n = 1; n <= tries; n++) {
		/* The page that has failed may be there still, and is what is mapped. */
		if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE))
			err(2, "fallocate");
		memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
		if (memory == MAP_FAILED)
			err(2, "mmap");
		for (unsigned long at = 0; at < SIZE; at += PAGE)
			atomic_store((atomic_char *)(memory + at), 1);
		punching = n;
		for (int i = 0; punched != n || failed != n; i++) {
			if (i == PATIENCE * 1000) {
				printf("try %lu: deadlock\n", n);
				show_stack("punches a hole", puncher);
				show_stack("handles the failure", handler);
				printf("result: bad\n");
				fflush(stdout);
				_exit(1);
			}
			usleep(1000);
		}
		munmap(memory, SIZE);
	}
	printf("%lu pages have failed or were gone, and %lu holes are there\n", tries, tries);
	printf("result: good\n");
	fflush(stdout);
	_exit(0);
}
