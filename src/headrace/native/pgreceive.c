/* Receives a COPY by way of libpq.

   The struct is declared a second time in connectors/postgres/receive.py. */

#ifndef _WIN32

#include <poll.h>

#include "pgformat.h"

enum { FULL, ENDED, FAILED, QUIET };

/* A libpq connection in the midst of COPY, with functions of the libpq that it belongs to. */
struct stream {
    void *connection;
    int (*get)(void *, char **, int);
    void (*free)(void *);
    int (*consume)(void *);
    int (*socket)(const void *);
    char *message; /* not all of which has found room; the caller ends with headrace_release */
    int64_t size, taken;
};

EXPORT void headrace_release(struct stream *stream)
{
    if (stream->message)
        stream->free(stream->message);
    stream->message = NULL;
}

/* Put the bytes of the copy into a block until it is full. QUIET: nothing came for `wait` milliseconds.

   libpq is never asked to wait: bytes that TLS has decrypted already don't show at the socket, so that it
   is asked for them after a short while in any case. */
EXPORT int32_t headrace_receive(struct stream *stream, uint8_t *block, int64_t room, int32_t wait, int64_t *got)
{
    int64_t used = 0;
    int status = FULL;
    while (used < room) {
        if (!stream->message) {
            int size = stream->get(stream->connection, &stream->message, 1);
            if (size == 0) {
                struct pollfd socket = {.fd = stream->socket(stream->connection), .events = POLLIN};
                int ready = poll(&socket, 1, wait);
                int sound = stream->consume(stream->connection);
                if (ready > 0 && sound)
                    continue;
                size = stream->get(stream->connection, &stream->message, 1);
                if (size == 0) {
                    status = sound ? QUIET : FAILED;
                    break;
                }
            }
            if (size < 0) {
                stream->message = NULL;
                status = size == -1 ? ENDED : FAILED;
                break;
            }
            stream->size = size;
            stream->taken = 0;
        }
        int64_t left = stream->size - stream->taken, some = left < room - used ? left : room - used;
        memcpy(block + used, stream->message + stream->taken, (size_t)some);
        used += some;
        stream->taken += some;
        if (stream->taken == stream->size)
            headrace_release(stream);
    }
    *got = used;
    return status;
}

#endif
