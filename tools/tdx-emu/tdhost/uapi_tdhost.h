/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/tdhost: TDs whose memory is a privmemfd, without KVM.
 *
 * For tests of the relocation of private memory. Every reserved field must be
 * zero. Common errors: EINVAL for an unknown flag, a reserved field that is not
 * zero, or a range that is not aligned to pages or not within the TD's memory;
 * EIO when the TD is lost, ENOTTY for an unknown request, EFAULT.
 */
#ifndef _UAPI_TDHOST_H
#define _UAPI_TDHOST_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* The TD is debuggable: TDHOST_READ works. */
#define TDHOST_TD_DEBUG		0x1

/**
 * struct tdhost_create - argument of TDHOST_CREATE_TD
 * @flags: TDHOST_TD_DEBUG or 0
 * @pages: pages of private memory; page n of the file is at GPA n * 4096
 * @memory: descriptor of a privmemfd with at least that many pages
 * @vcpus: number of vCPUs
 * @reserved: zero
 */
struct tdhost_create {
	__u64 flags;
	__u64 pages;
	__s32 memory;
	__u32 vcpus;
	__u64 reserved[4];
};

/**
 * struct tdhost_pages - argument of TDHOST_ADD and TDHOST_AUG
 * @gpa: address of the first page
 * @pages: number of pages
 * @seed: TDHOST_ADD: the content, as that of the guest's command FILL
 * @done: out: number of pages done, also when the request fails
 * @reserved: zero
 */
struct tdhost_pages {
	__u64 gpa;
	__u64 pages;
	__u64 seed;
	__u64 done;
	__u64 reserved[2];
};

/**
 * struct tdhost_run - argument of TDHOST_RUN
 * @vcpu: number of the vCPU
 * @command: what the guest shall do, see tdxemu_guest.h; 0: go on with the
 *	     command that a signal has interrupted
 * @gpa: address of the first page
 * @pages: number of pages
 * @arg: seed or number of passes
 * @report: out: why the command ended before its end, or 0
 * @done: out: pages worked on
 * @mismatches: out: words that were not as expected
 * @mismatch_gpa: out: address of the first of them
 * @entries: out: number of entries of the guest during this request
 * @faults: out: number of EPT violations during this request
 * @reserved: zero
 */
struct tdhost_run {
	__u32 vcpu;
	__u32 command;
	__u64 gpa;
	__u64 pages;
	__u64 arg;
	__u64 report;
	__u64 done;
	__u64 mismatches;
	__u64 mismatch_gpa;
	__u64 entries;
	__u64 faults;
	__u64 reserved[2];
};

/**
 * struct tdhost_read - argument of TDHOST_READ
 * @gpa: address of a 64-bit word
 * @value: out: its content as the TD sees it
 * @reserved: zero
 */
struct tdhost_read {
	__u64 gpa;
	__u64 value;
	__u64 reserved[2];
};

/* tdhost_sept.state; others are those of the TDX module. */
#define TDHOST_SEPT_FREE		0
#define TDHOST_SEPT_BLOCKED		1
#define TDHOST_SEPT_PENDING		2
#define TDHOST_SEPT_PENDING_BLOCKED	3
#define TDHOST_SEPT_MAPPED		4

/**
 * struct tdhost_sept - argument of TDHOST_SEPT
 * @gpa: address of a page
 * @state: out: state of its entry
 * @level: out: level of the entry, 0 for a page
 * @pfn: out: page frame number that the entry has, or 0
 * @mirror: out: page frame number that the host believes it has, or 0
 * @reserved: zero
 */
struct tdhost_sept {
	__u64 gpa;
	__u32 state;
	__u32 level;
	__u64 pfn;
	__u64 mirror;
	__u64 reserved[2];
};

/**
 * struct tdhost_stat - argument of TDHOST_STAT
 * @mapped: pages that the TD has now
 * @batches: calls of the backend
 * @moved: pages that the backend has moved
 * @refused: pages that the backend has not moved
 * @kicks: times that the backend made vCPUs leave
 * @holds: times that the backend kept vCPUs out
 * @waits: entries that had to wait because of that
 * @faults: EPT violations of all vCPUs
 * @entries: entries of all vCPUs
 * @retries: faults that had to start over
 * @removed: pages taken from the TD by holes
 * @leaked: pages that the TDX module did not give back, since the module is loaded
 * @dead: 1 if the TD is lost
 * @reserved: zero
 */
struct tdhost_stat {
	__u64 mapped;
	__u64 batches;
	__u64 moved;
	__u64 refused;
	__u64 kicks;
	__u64 holds;
	__u64 waits;
	__u64 faults;
	__u64 entries;
	__u64 retries;
	__u64 removed;
	__u64 leaked;
	__u64 dead;
	__u64 reserved[3];
};

#define TDHOST_IOC 0xbd

/*
 * On /dev/tdhost: make a TD; returns a descriptor, and closing that destroys
 * the TD. EBUSY: the file is in use by another TD or VM, or there is no KeyID
 * left. EBADF, EINVAL: @memory is no privmemfd, or too small. ENODEV: there is
 * no TDX module.
 */
#define TDHOST_CREATE_TD	_IOW(TDHOST_IOC, 0, struct tdhost_create)

/*
 * On a TD, before it is finalized: give it pages with content. EEXIST: it has
 * the page. EBUSY: it is finalized. EINTR.
 */
#define TDHOST_ADD		_IOWR(TDHOST_IOC, 1, struct tdhost_pages)

/* Give it pages that it has to accept. Those that it has are left alone. EINTR. */
#define TDHOST_AUG		_IOWR(TDHOST_IOC, 2, struct tdhost_pages)

/* The TD may run from now on. EBUSY: it may already. */
#define TDHOST_FINALIZE		_IO(TDHOST_IOC, 3)

/*
 * Enter a vCPU until the guest has done what it is told. EINTR: a signal has
 * come; EBUSY: the vCPU has not done yet what it was told before (command 0
 * goes on with that), or the TD is not finalized; ENOENT: there is no such vCPU,
 * or nothing to go on with. EFAULT: the guest used an address without memory.
 */
#define TDHOST_RUN		_IOWR(TDHOST_IOC, 4, struct tdhost_run)

/* Read memory of a debuggable TD. EPERM: it is not. ENXIO: no accepted page. */
#define TDHOST_READ		_IOWR(TDHOST_IOC, 5, struct tdhost_read)

/* Read an entry of the secure EPT. */
#define TDHOST_SEPT		_IOWR(TDHOST_IOC, 6, struct tdhost_sept)

/* Count. Works on a lost TD as well. */
#define TDHOST_STAT		_IOWR(TDHOST_IOC, 7, struct tdhost_stat)

#endif /* _UAPI_TDHOST_H */
