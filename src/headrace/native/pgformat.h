/* What PostgreSQL's binary format asks of the kernels in both directions. */

#ifndef HEADRACE_PGFORMAT_H
#define HEADRACE_PGFORMAT_H

#include "machine.h"

static const int64_t EPOCH_DAYS = 10957, DAY_US = 86400000000; /* 1970-01-01 to 2000-01-01 */

#endif
