// SPDX-License-Identifier: GPL-2.0
//
// The fault plan in reach of the machine that is emulated: a byte port. What is
// written there up to an end of line is a rule of the plan. Reading it gives a line
// "ok" or "bad", for the last rule written, and the plan with what it did, then a
// zero byte.

#include "bochs.h"
#include "cpu.h"
#include "iodev/iodev.h"
#include "tdx.hh"

#include <string>

static const unsigned PORT = 0x7d0;
static const size_t LONGEST_LINE = 256;

static std::string line, answer;
static size_t given;
static bool good = true;

static void write_byte(void *, Bit32u, Bit32u value, unsigned)
{
  answer.clear();
  if (Bit8u(value) != '\n') {
    // One more than there may be tells that it is too long.
    if (line.size() <= LONGEST_LINE)
      line += char(value);
    return;
  }
  good = line.size() <= LONGEST_LINE && tdx_emu_faults_apply(line.c_str());
  line.clear();
}

static Bit32u read_byte(void *, Bit32u, unsigned)
{
  if (answer.empty()) {
    char plan[4096];
    answer = good ? "ok\n" : "bad\n";
    answer.append(plan, tdx_emu_faults_show(plan, sizeof(plan)));
    given = 0;
  }
  if (given < answer.size())
    return Bit8u(answer[given++]);
  answer.clear();
  return 0;
}

void tdx_faults_init(void)
{
  DEV_register_iowrite_handler(NULL, write_byte, PORT, "TDX module's fault plan", 1);
  DEV_register_ioread_handler(NULL, read_byte, PORT, "TDX module's fault plan", 1);
}
