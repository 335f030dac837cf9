/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The guest that tdxemu.ko runs in every TD, as its host sees it.
 *
 * The guest is a command interpreter. It takes a command as the result of its
 * last TDG.VP.VMCALL, that is in the registers of the TDH.VP.ENTER that follows
 * an exit of reason 77, works on it, and reports by the next TDG.VP.VMCALL. Its
 * first act after TDH.VP.INIT is such a call (with nothing to report), so the
 * first TDH.VP.ENTER of a vCPU ends at once.
 *
 * It runs inside TDH.VP.ENTER with interrupts off, no longer than a burst
 * (debugfs file tdxemu/burst_us), or until an interrupt is pending on the CPU.
 * A command that is not done by then goes on at the next entry. At least one
 * page is worked on per entry. The registers of an entry that does not follow
 * an exit of reason 77 are not looked at, except RCX.
 *
 * TDH.VP.ENTER ends with CF = 0 and:
 *
 * RAX = TDXEMU_EXIT_INTERRUPT: the burst is over. All other registers are 0.
 * RAX = TDXEMU_EXIT_EPT_VIOLATION: RCX = exit qualification (0:2 read, write,
 *	fetch; 5:3 permissions), RDX = extended exit qualification (3:0 type: 0
 *	none, 1 TDG.MEM.PAGE.ACCEPT, 6 access to a pending page; 63:32 details
 *	of type 1), R8 = GPA of the page. The others are 0.
 * RAX = TDXEMU_EXIT_TDCALL: RCX = TDXEMU_VMCALL_MASK, and
 *	R10 = TDXEMU_VMCALL, the vendor's, not zero as those of the GHCI
 *	R11 = the command that is done; 0: there was none
 *	R12 = pages worked on, each pass counted
 *	R13 = words that were not as expected (TDXEMU_ACCEPT: pages that were
 *	      accepted already)
 *	R14 = GPA of the first of them, or TDXEMU_NO_GPA
 *	R15 = TDXEMU_OK, or why the command ended before its end: a status of
 *	      TDG.MEM.PAGE.ACCEPT, or a TDXEMU_E* value
 *	The others are 0.
 * RAX = anything else: a status of TDH.VP.ENTER, as the Intel TDX module gives
 *	it. 0x6000000500000000 and above: the TD is lost.
 *
 * RBP and RSP keep their values in all cases.
 */
#ifndef TDXEMU_GUEST_H
#define TDXEMU_GUEST_H

#include <linux/types.h>

/* RAX of TDH.VP.ENTER when the TD has exited. */
#define TDXEMU_EXIT_INTERRUPT		1
#define TDXEMU_EXIT_EPT_VIOLATION	48
#define TDXEMU_EXIT_TDCALL		77

/* R10 to R15 are passed, in both directions. */
#define TDXEMU_VMCALL_MASK		0xfc00ULL
/* R10 of the guest's call: "TDXEMU". */
#define TDXEMU_VMCALL			0x554d45584454ULL

/*
 * At TDH.VP.ENTER after TDXEMU_EXIT_TDCALL: R10 = 0 (anything else: the guest
 * takes no command and asks again), R12 = command, R13 = first GPA (4 KiB
 * aligned, private), R14 = number of 4 KiB pages, R15 = seed or passes.
 */
enum tdxemu_command {
	/* Nothing: the guest asks again. */
	TDXEMU_NONE	= 0,
	/* TDG.MEM.PAGE.ACCEPT of each page; repeated while it returns BUSY. */
	TDXEMU_ACCEPT	= 1,
	/* Write tdxemu_word(R15, address) to every word. */
	TDXEMU_FILL	= 2,
	/* Read all, expect tdxemu_word(R15, address). */
	TDXEMU_VERIFY	= 3,
	/* Read the first word of each page, R15 passes; 0: without end. */
	TDXEMU_TOUCH	= 4,
	/* Stay in the guest for R15 bursts; 0: without end. R13, R14 unused. */
	TDXEMU_SPIN	= 5,
	/*
	 * In pass n = 1, 2, ... R15 (0: without end): expect n - 1 in the first
	 * word of each page (anything in pass 1), write n to it.
	 */
	TDXEMU_STAMP	= 6,
};

/* R15 of the report. */
#define TDXEMU_OK			0
/* No such command, or R13, R14 make no range of private pages. */
#define TDXEMU_EINVAL			1
/* #VE: the page is pending. It has to be accepted first. */
#define TDXEMU_EVE			2

/* R14 of the report: no such address. */
#define TDXEMU_NO_GPA			(~0ULL)

/* What TDXEMU_FILL writes to the 64-bit word at a GPA. */
static inline __u64 tdxemu_word(__u64 seed, __u64 gpa)
{
	return (seed ^ gpa) * 0x9e3779b97f4a7c15ULL;
}

#endif /* TDXEMU_GUEST_H */
