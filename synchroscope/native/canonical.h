/* Canonical bytes (docs/digest-spec.md) and what they are written into, for the optional extensions.
 *
 * The rule is `synchroscope/canonical.py`. Here are the parts that do not depend on where a value
 * comes from: heads, fractions, the order of an object's pairs.
 */

#ifndef SYNCHROSCOPE_CANONICAL_H
#define SYNCHROSCOPE_CANONICAL_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define XXH_INLINE_ALL
#include "xxhash.h"

#include "status.h"

/* -- bytes that grow ------------------------------------------------------------------------- */

typedef struct {
    uint8_t *data;
    size_t size;
    size_t room;
} Bytes;

static Status make_room(Bytes *bytes, size_t more)
{
    size_t wanted = bytes->size + more;
    if (wanted < more || wanted > PY_SSIZE_T_MAX / 2) {
        PyErr_NoMemory();
        return FAILED;
    }
    wanted += wanted / 2 + 256;
    uint8_t *data = PyMem_Realloc(bytes->data, wanted);
    if (data == NULL) {
        PyErr_NoMemory();
        return FAILED;
    }
    bytes->data = data;
    bytes->room = wanted;
    return DONE;
}

static inline Status reserve(Bytes *bytes, size_t more)
{
    return more <= bytes->room - bytes->size ? DONE : make_room(bytes, more);
}

static inline Status put(Bytes *bytes, const void *data, size_t size)
{
    TRY(reserve(bytes, size));
    if (size != 0) { /* The data of nothing may be NULL, which memcpy forbids. */
        memcpy(bytes->data + bytes->size, data, size);
    }
    bytes->size += size;
    return DONE;
}

static inline Status put_byte(Bytes *bytes, uint8_t byte)
{
    TRY(reserve(bytes, 1));
    bytes->data[bytes->size++] = byte;
    return DONE;
}

static inline Status put_number(Bytes *column, uint64_t number)
{
    return put(column, &number, sizeof number);
}

static inline void release(Bytes *bytes)
{
    PyMem_Free(bytes->data);
    *bytes = (Bytes){NULL, 0, 0};
}

static inline PyObject *as_object(const Bytes *bytes)
{
    return PyBytes_FromStringAndSize((const char *)bytes->data, (Py_ssize_t)bytes->size);
}

/* -- canonical bytes ------------------------------------------------------------------------- */

/* Write the head of a CBOR item: `major` in the upper three bits. */
static inline Status put_head(Bytes *out, uint8_t major, uint64_t argument)
{
    uint8_t head[9];
    size_t width;
    if (argument < 24) {
        return put_byte(out, (uint8_t)(major | argument));
    }
    if (argument < 0x100) {
        head[0] = major | 24;
        width = 1;
    } else if (argument < 0x10000) {
        head[0] = major | 25;
        width = 2;
    } else if (argument < UINT64_C(0x100000000)) {
        head[0] = major | 26;
        width = 4;
    } else {
        head[0] = major | 27;
        width = 8;
    }
    for (size_t place = width; place > 0; place--) {
        head[place] = (uint8_t)argument;
        argument >>= 8;
    }
    return put(out, head, width + 1);
}

static inline Status put_big_endian(Bytes *out, uint8_t head, uint64_t bits, size_t width)
{
    uint8_t bytes[9];
    bytes[0] = head;
    for (size_t place = width; place > 0; place--) {
        bytes[place] = (uint8_t)bits;
        bits >>= 8;
    }
    return put(out, bytes, width + 1);
}

/* Write a finite fraction as `_float` of synchroscope/canonical.py does. */
static inline Status put_fraction(Bytes *out, double value)
{
    if (value == floor(value) && value >= -9223372036854775808.0 &&
        value < 18446744073709551616.0) {
        if (value >= 0) {
            return put_head(out, 0x00, (uint64_t)value);
        }
        return put_head(out, 0x20, (uint64_t)(-1 - (int64_t)value));
    }
    if (fabs(value) <= FLT_MAX && (double)(float)value == value) {
        const float single = (float)value;
        if (fabs(value) <= 65504.0) {
            char half[2];
            if (PyFloat_Pack2(value, half, 0) < 0) {
                return FAILED;
            }
            if (PyFloat_Unpack2(half, 0) == value) {
                TRY(put_byte(out, 0xf9));
                return put(out, half, sizeof half);
            }
        }
        uint32_t bits;
        memcpy(&bits, &single, sizeof bits);
        return put_big_endian(out, 0xfa, bits, 4);
    }
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return put_big_endian(out, 0xfb, bits, 8);
}

/* Insert a head before what was written from `start` on: how many items there are is known late. */
static inline Status insert_head(Bytes *out, size_t start, uint8_t major, uint64_t count)
{
    const size_t size = out->size - start;
    TRY(put_head(out, major, count));
    uint8_t head[9];
    const size_t width = out->size - start - size;
    memcpy(head, out->data + out->size - width, width);
    memmove(out->data + start + width, out->data + start, size);
    memcpy(out->data + start, head, width);
    return DONE;
}

/* A key with its value, as they stand in the bytes that are written. */
typedef struct {
    size_t start;
    size_t key_size;
    size_t size;
} Pair;

static inline int compare_keys(const uint8_t *data, const Pair *one, const Pair *other)
{
    const size_t common = one->key_size < other->key_size ? one->key_size : other->key_size;
    const int order = memcmp(data + one->start, data + other->start, common);
    if (order != 0 || one->key_size == other->key_size) {
        return order;
    }
    return one->key_size < other->key_size ? -1 : 1;
}

/* Put the pairs that were written from `start` on into the order of `pairs`. */
static inline Status arrange(Bytes *out, size_t start, const Pair *pairs, size_t count)
{
    const size_t size = out->size - start;
    TRY(reserve(out, size));
    uint8_t *sorted = out->data + out->size;
    for (size_t place = 0; place < count; place++) {
        memcpy(sorted, out->data + pairs[place].start, pairs[place].size);
        sorted += pairs[place].size;
    }
    memcpy(out->data + start, out->data + out->size, size);
    return DONE;
}

#endif
