/* Cells of csv and json lines: where a value's text lies in the block, quotes included; one without bytes is null.

   What is not plainly right is refused, never guessed at: the caller then asks the careful readers in Python.
   Nothing is kept between calls. The structs are declared a second time in connector/files/cells.py. */

#ifndef HEADRACE_CELLS_H
#define HEADRACE_CELLS_H

#include "machine.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

struct cell { uint32_t start, end; };

static inline int digit(uint8_t c) { return (uint8_t)(c - '0') < 10; }

#endif
