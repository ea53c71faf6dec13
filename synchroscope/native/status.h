/* How a step of an extension ends; an extension that is not sure leaves the work to Python. */

#ifndef SYNCHROSCOPE_STATUS_H
#define SYNCHROSCOPE_STATUS_H

typedef enum {
    DONE,
    ODD,   /* The rule must decide. */
    FAILED /* A Python exception is set. */
} Status;

#define TRY(step)                     \
    do {                              \
        const Status tried = (step);  \
        if (tried != DONE) {          \
            return tried;             \
        }                             \
    } while (0)

#endif
