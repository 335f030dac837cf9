/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * privmemfd: guest-private memory that the host can still move.
 *
 * A privmemfd is a file of a fixed size whose contents no process on the host
 * can read, write or map. A VM uses it as guest_memfd. Unlike KVM's own
 * guest_memfd, the host may move the pages of a movable privmemfd: compaction,
 * memory offlining, contiguous allocations and soft offlining all work.
 *
 * What is not a TD's lies in the host's memory as the guest wrote it, and is
 * there for whoever reads all of that: root by /proc/kcore, a crash dump. The
 * system does not hibernate while there is a privmemfd.
 *
 * Rules common to all requests: every reserved field must be zero, unknown
 * flags are refused (EINVAL), an unknown request gives ENOTTY, an unreadable
 * or unwritable structure gives EFAULT. All sizes and offsets are in bytes.
 */
#ifndef _UAPI_LINUX_PRIVMEMFD_H
#define _UAPI_LINUX_PRIVMEMFD_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define PRIVMEMFD_IOC		0xBC

/* No preference (struct privmemfd_create, _move) or all nodes (_stat). */
#define PRIVMEMFD_NODE_ANY	(-1)

/*
 * Flags of struct privmemfd_create and privmemfd_stat. A file is either MOVABLE
 * or PINNED; exactly one of the two must be given.
 */
/* The host may move pages; they may live in ZONE_MOVABLE and in CMA areas. */
#define PRIVMEMFD_MOVABLE	(1ULL << 0)
/* The host never moves a page, and no page is put where it would be in the way. */
#define PRIVMEMFD_PINNED	(1ULL << 1)
/* Close the new file descriptor on execve(2). */
#define PRIVMEMFD_CLOEXEC	(1ULL << 2)

/**
 * struct privmemfd_create - make a privmemfd (on /dev/privmemfd)
 * @size:	size of the file; more than 0, a multiple of the page size, fixed
 *		for the life of the file
 * @flags:	PRIVMEMFD_MOVABLE or PRIVMEMFD_PINNED, and any of the other flags
 * @node:	NUMA node that pages come from if it has free memory, or
 *		PRIVMEMFD_NODE_ANY
 * @pad:	must be zero
 * @reserved:	must be zero
 *
 * The ioctl returns the new file descriptor.
 *
 * Errors: EINVAL (size, flags, node that is not online, reserved field not
 * zero), EBUSY (the system is about to hibernate), EMFILE, ENFILE, ENOMEM.
 */
struct privmemfd_create {
	__u64 size;
	__u64 flags;
	__s32 node;
	__u32 pad;
	__u64 reserved[4];
};

/* Index into privmemfd_stat.zone_pages. */
#define PRIVMEMFD_ZONE_DMA	0
#define PRIVMEMFD_ZONE_DMA32	1
#define PRIVMEMFD_ZONE_NORMAL	2
#define PRIVMEMFD_ZONE_MOVABLE	3
#define PRIVMEMFD_ZONE_DEVICE	4
#define PRIVMEMFD_NR_ZONES	8

/* Index into privmemfd_stat.refused: why a page was not moved. */
/* The file is pinned. */
#define PRIVMEMFD_REFUSED_PINNED	0
/* Another operation on the file was under way; the caller may try again. */
#define PRIVMEMFD_REFUSED_BUSY		1
/*
 * A bound VM could not be kept off the page, or whoever owns the content of its
 * memory (the TDX module) did not move it.
 */
#define PRIVMEMFD_REFUSED_GUEST		2
/* The page's memory is failing: its content could not be read. */
#define PRIVMEMFD_REFUSED_POISON	3
/* The host could not copy the content. */
#define PRIVMEMFD_REFUSED_BACKEND	4
/* No memory for the new page (PRIVMEMFD_MOVE only). */
#define PRIVMEMFD_REFUSED_NOMEM		5
#define PRIVMEMFD_NR_REFUSED		8

/**
 * struct privmemfd_stat - look at a privmemfd (on a privmemfd)
 * @node:	in: count only the pages on this node, or PRIVMEMFD_NODE_ANY
 * @pad:	must be zero
 * @flags:	out: PRIVMEMFD_MOVABLE or PRIVMEMFD_PINNED
 * @size:	out: size of the file
 * @pages:	out: pages that have memory (on @node)
 * @zone_pages:	out: the same by zone, see PRIVMEMFD_ZONE_DMA and following
 * @poisoned:	out: pages lost to failing memory
 * @vms:	out: VMs the file is bound to
 * @slots:	out: memslots the file is bound to, over all VMs
 * @relocated:	out: relocations done since the file was made
 * @refused:	out: relocations refused, by reason, see PRIVMEMFD_REFUSED_PINNED
 *		and following
 * @reserved:	must be zero
 *
 * Takes time in proportion to @size. Pages that move while they are counted
 * may be counted twice or not at all.
 *
 * Errors: EINVAL (node, reserved field not zero), EINTR.
 */
struct privmemfd_stat {
	__s32 node;
	__u32 pad;
	__u64 flags;
	__u64 size;
	__u64 pages;
	__u64 zone_pages[PRIVMEMFD_NR_ZONES];
	__u64 poisoned;
	__u64 vms;
	__u64 slots;
	__u64 relocated;
	__u64 refused[PRIVMEMFD_NR_REFUSED];
	__u64 reserved[4];
};

/* privmemfd_pages: this page of the file has no memory. */
#define PRIVMEMFD_PFN_NONE	(~0ULL)

/**
 * struct privmemfd_pages - where the pages are (on a privmemfd)
 * @offset:	first byte, a multiple of the page size
 * @len:	bytes, a multiple of the page size
 * @pfns:	user address of an array of __u64, one per page; receives the
 *		page frame number or PRIVMEMFD_PFN_NONE
 * @reserved:	must be zero
 *
 * A page frame number says where a page was, not where it still is. Needs
 * CAP_SYS_ADMIN, as the page frame numbers of /proc/pid/pagemap do.
 *
 * Errors: EPERM, EINVAL (range not aligned or beyond the end, reserved field
 * not zero), EFAULT (@pfns), EINTR.
 */
struct privmemfd_pages {
	__u64 offset;
	__u64 len;
	__u64 pfns;
	__u64 reserved[4];
};

/*
 * Flag of struct privmemfd_move: go on past pages that cannot move, and tell in
 * @status how each page has ended.
 */
#define PRIVMEMFD_MOVE_STATUS	(1U << 0)

/**
 * struct privmemfd_move - move pages on request (on a privmemfd)
 * @offset:	first byte, a multiple of the page size
 * @len:	bytes, a multiple of the page size
 * @node:	NUMA node to move to; PRIVMEMFD_NODE_ANY moves every page to
 *		any new place
 * @flags:	0 or PRIVMEMFD_MOVE_STATUS
 * @moved:	out: pages moved, also set if the request fails half-way
 * @status:	with PRIVMEMFD_MOVE_STATUS: user address of an array of __s32,
 *		one per page, see below; else must be zero
 * @reserved:	must be zero
 *
 * Pages that have no memory, that are on @node already or whose memory is
 * failing are passed over. Guests that use the pages go on running.
 *
 * Without PRIVMEMFD_MOVE_STATUS the request tries as many pages at a time as the
 * module parameter batch says and ends, with the error of a page that cannot
 * move, when it has tried the others that belong together with it. What moved
 * stays moved.
 *
 * With PRIVMEMFD_MOVE_STATUS it goes through the whole range and succeeds
 * however many pages have moved. @status receives, as that of move_pages(2),
 * for each page the node that it is on now, whether it has moved or not, or
 *
 *  - -ENOENT: the page has no memory;
 *  - -EBUSY: a bound VM could not be kept off it, the TDX module did not move
 *    it, or the host could not copy it;
 *  - -EAGAIN: contention: ask again for this page;
 *  - -EHWPOISON: its memory has failed;
 *  - -ENOMEM: no memory for the new page.
 *
 * A page with an error is where it was, content and all; one whose memory has
 * failed has left the file, or is about to. If the request itself
 * fails (EINTR, ENOMEM for the kernel's own use), the entries of the pages that
 * it did not come to are left as they were. After EFAULT of @status up to 512
 * pages more may have moved than it tells; @moved counts them.
 *
 * The flag came after the request: a kernel that does not know it gives EINVAL.
 *
 * Errors: EINVAL (range not aligned or beyond the end, node that is not
 * online, flags, @status without its flag, reserved field not zero), EBUSY
 * (pinned file), EFAULT (@status), EINTR, ENOMEM; without PRIVMEMFD_MOVE_STATUS
 * also those of a page: EBUSY, EAGAIN, EHWPOISON, ENOMEM.
 */
struct privmemfd_move {
	__u64 offset;
	__u64 len;
	__s32 node;
	__u32 flags;
	__u64 moved;
	__u64 status;
	__u64 reserved[3];
};

/* On /dev/privmemfd. */
#define PRIVMEMFD_CREATE	_IOW(PRIVMEMFD_IOC, 0x00, struct privmemfd_create)
/* On a privmemfd. */
#define PRIVMEMFD_STAT		_IOWR(PRIVMEMFD_IOC, 0x01, struct privmemfd_stat)
#define PRIVMEMFD_PAGES		_IOW(PRIVMEMFD_IOC, 0x02, struct privmemfd_pages)
#define PRIVMEMFD_MOVE		_IOWR(PRIVMEMFD_IOC, 0x03, struct privmemfd_move)

#endif /* _UAPI_LINUX_PRIVMEMFD_H */
