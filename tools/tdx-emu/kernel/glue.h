/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the Rust part of tdxemu.ko cannot reach by itself. Bindgen reads this
 * file too.
 */
#ifndef TDXEMU_GLUE_H
#define TDXEMU_GLUE_H

#include <linux/types.h>

/**
 * struct tdxemu_gprs - general purpose registers of a SEAMCALL, RSP left out
 */
struct tdxemu_gprs {
	u64 rax, rcx, rdx, rbx, rbp, rsi, rdi;
	u64 r8, r9, r10, r11, r12, r13, r14, r15;
};

/**
 * struct tdxemu_range - a range of physical addresses
 * @base: first byte
 * @size: in bytes
 */
struct tdxemu_range {
	u64 base, size;
};

/* Written in Rust. */

/**
 * tdxemu_answer() - carry out a SEAMCALL
 * @gprs: registers, in and out
 *
 * Context: whatever executed the instruction, interrupts off.
 * Return: whether the call fails as VMfailInvalid, the registers unchanged.
 */
bool tdxemu_answer(struct tdxemu_gprs *gprs);

/* Written in C. */

/**
 * tdxemu_glue_register() - answer SEAMCALL from now on
 *
 * Return: 0 or a negative errno.
 */
int tdxemu_glue_register(void);

/**
 * tdxemu_glue_unregister() - answer it no more
 *
 * Waits for the calls that are under way. May sleep.
 */
void tdxemu_glue_unregister(void);

/**
 * tdxemu_glue_ram() - find the System RAM
 * @ranges: array to fill, in order of address, in whole pages
 * @max: its length
 *
 * Process context.
 * Return: how many ranges there are, which may be more than @max.
 */
unsigned int tdxemu_glue_ram(struct tdxemu_range *ranges, unsigned int max);

/* Where physical address 0 is in the direct map. */
u64 tdxemu_glue_direct_map(void);

/* Width of physical addresses without KeyID bits. */
unsigned int tdxemu_glue_phys_bits(void);

/* One more than the highest number of an online CPU. */
unsigned int tdxemu_glue_cpus(void);

/* TSC ticks in a millisecond. */
unsigned int tdxemu_glue_tsc_khz(void);

/* The CPU this runs on. The caller cannot be moved to another one. */
unsigned int tdxemu_glue_cpu(void);

/* Whether an interrupt waits for this CPU to take it. Interrupts are off. */
bool tdxemu_glue_interrupt_pending(void);

u64 tdxemu_glue_random(void);

/* Busy wait. Any context. */
void tdxemu_glue_delay(unsigned int microseconds);

/* Keep the module loaded. False: it is being unloaded. Any context. */
bool tdxemu_glue_pin(void);
void tdxemu_glue_unpin(void);

/* For tests. */

/* Zeroed pages: the physical address, or 0. May sleep. */
u64 tdxemu_glue_alloc(unsigned int order);
void tdxemu_glue_free(u64 pa, unsigned int order);

/* Call a function on every online CPU, with interrupts off, and wait. */
void tdxemu_glue_on_each_cpu(void (*func)(void *data), void *data);

/* Stay on one CPU. */
void tdxemu_glue_migrate_disable(void);
void tdxemu_glue_migrate_enable(void);

#endif /* TDXEMU_GLUE_H */
