/* SPDX-License-Identifier: GPL-2.0 */
/* What clang makes objects call that were compiled with -fprofile-arcs. */
#ifndef COUNT_H
#define COUNT_H

#include <linux/types.h>

typedef void (*callback_t)(void);

void llvm_gcov_init(callback_t write, callback_t reset);
void llvm_gcda_start_file(const char *name, u32 version, u32 checksum);
void llvm_gcda_emit_function(u32 ident, u32 checksum, u32 cfg_checksum);
void llvm_gcda_emit_arcs(u32 nr, u64 *counters);
void llvm_gcda_summary_info(void);
void llvm_gcda_end_file(void);

#endif /* COUNT_H */
