// SPDX-License-Identifier: GPL-2.0

#define CREATE_TRACE_POINTS
#include <trace/events/privmemfd.h>

#include "../ffi.h"

void privmemfd_helper_trace_create(u64 ino, u64 size, u64 flags, int node)
{
	trace_privmemfd_create(ino, size, flags, node);
}

void privmemfd_helper_trace_bind(u64 ino, const void *vm, pgoff_t start, pgoff_t nr)
{
	trace_privmemfd_bind(ino, vm, start, nr);
}

void privmemfd_helper_trace_unbind(u64 ino, const void *vm, pgoff_t start, pgoff_t nr)
{
	trace_privmemfd_unbind(ino, vm, start, nr);
}

bool privmemfd_helper_trace_relocate_enabled(void)
{
	return trace_privmemfd_relocate_begin_enabled() ||
	       trace_privmemfd_relocate_end_enabled();
}

void privmemfd_helper_trace_relocate_begin(u64 ino, pgoff_t index, unsigned long from,
					   unsigned long to, unsigned int cause)
{
	trace_privmemfd_relocate_begin(ino, index, from, to, cause);
}

void privmemfd_helper_trace_relocate_end(u64 ino, pgoff_t index, unsigned int cause,
					 unsigned int backend, int result,
					 unsigned int refusal, u64 ns)
{
	trace_privmemfd_relocate_end(ino, index, cause, backend, result, refusal, ns);
}
