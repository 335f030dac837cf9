/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM privmemfd

#if !defined(_TRACE_PRIVMEMFD_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_PRIVMEMFD_H

#include <linux/tracepoint.h>

/* Who asked for a relocation; the values of src/relocate.rs:Cause. */
#define privmemfd_causes		\
	{ 0,	"mm" },			\
	{ 1,	"request" }

/* The values of src/backend.rs:BackendId; ~0 when no backend came to it. */
#define privmemfd_backends		\
	{ 0,	"software" },		\
	{ 1,	"tdx" },		\
	{ ~0U,	"none" }

/* The values of src/relocate.rs:Refusal; ~0 when nothing was refused. */
#define privmemfd_refusals		\
	{ 0,	"pinned" },		\
	{ 1,	"busy" },		\
	{ 2,	"guest" },		\
	{ 3,	"poison" },		\
	{ 4,	"backend" },		\
	{ 5,	"nomem" },		\
	{ ~0U,	"none" }

/* A file was made. @size in bytes, @flags as in struct privmemfd_create. */
TRACE_EVENT(privmemfd_create,
	TP_PROTO(u64 ino, u64 size, u64 flags, int node),
	TP_ARGS(ino, size, flags, node),
	TP_STRUCT__entry(
		__field(u64, ino)
		__field(u64, size)
		__field(u64, flags)
		__field(int, node)
	),
	TP_fast_assign(
		__entry->ino = ino;
		__entry->size = size;
		__entry->flags = flags;
		__entry->node = node;
	),
	TP_printk("ino=%llu size=%llu flags=0x%llx node=%d",
		  __entry->ino, __entry->size, __entry->flags, __entry->node)
);

DECLARE_EVENT_CLASS(privmemfd_binding,
	TP_PROTO(u64 ino, const void *vm, unsigned long start, unsigned long nr),
	TP_ARGS(ino, vm, start, nr),
	TP_STRUCT__entry(
		__field(u64, ino)
		__field(const void *, vm)
		__field(unsigned long, start)
		__field(unsigned long, nr)
	),
	TP_fast_assign(
		__entry->ino = ino;
		__entry->vm = vm;
		__entry->start = start;
		__entry->nr = nr;
	),
	TP_printk("ino=%llu vm=%p index=%lu pages=%lu",
		  __entry->ino, __entry->vm, __entry->start, __entry->nr)
);

/* A range of pages now backs a memslot of @vm. */
DEFINE_EVENT(privmemfd_binding, privmemfd_bind,
	TP_PROTO(u64 ino, const void *vm, unsigned long start, unsigned long nr),
	TP_ARGS(ino, vm, start, nr)
);

/* A range of pages no longer backs a memslot of @vm. */
DEFINE_EVENT(privmemfd_binding, privmemfd_unbind,
	TP_PROTO(u64 ino, const void *vm, unsigned long start, unsigned long nr),
	TP_ARGS(ino, vm, start, nr)
);

/* A relocation starts: both folios are locked. */
TRACE_EVENT(privmemfd_relocate_begin,
	TP_PROTO(u64 ino, unsigned long index, unsigned long from,
		 unsigned long to, unsigned int cause),
	TP_ARGS(ino, index, from, to, cause),
	TP_STRUCT__entry(
		__field(u64, ino)
		__field(unsigned long, index)
		__field(unsigned long, from)
		__field(unsigned long, to)
		__field(unsigned int, cause)
	),
	TP_fast_assign(
		__entry->ino = ino;
		__entry->index = index;
		__entry->from = from;
		__entry->to = to;
		__entry->cause = cause;
	),
	TP_printk("ino=%llu index=%lu pfn=0x%lx to=0x%lx cause=%s",
		  __entry->ino, __entry->index, __entry->from, __entry->to,
		  __print_symbolic(__entry->cause, privmemfd_causes))
);

/* A relocation has ended: @result 0 or an errno, @ns since its batch began. */
TRACE_EVENT(privmemfd_relocate_end,
	TP_PROTO(u64 ino, unsigned long index, unsigned int cause,
		 unsigned int backend, int result, unsigned int refusal, u64 ns),
	TP_ARGS(ino, index, cause, backend, result, refusal, ns),
	TP_STRUCT__entry(
		__field(u64, ino)
		__field(unsigned long, index)
		__field(unsigned int, cause)
		__field(unsigned int, backend)
		__field(int, result)
		__field(unsigned int, refusal)
		__field(u64, ns)
	),
	TP_fast_assign(
		__entry->ino = ino;
		__entry->index = index;
		__entry->cause = cause;
		__entry->backend = backend;
		__entry->result = result;
		__entry->refusal = refusal;
		__entry->ns = ns;
	),
	TP_printk("ino=%llu index=%lu cause=%s backend=%s result=%d refused=%s ns=%llu",
		  __entry->ino, __entry->index,
		  __print_symbolic(__entry->cause, privmemfd_causes),
		  __print_symbolic(__entry->backend, privmemfd_backends),
		  __entry->result,
		  __print_symbolic(__entry->refusal, privmemfd_refusals),
		  __entry->ns)
);

#endif /* _TRACE_PRIVMEMFD_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
