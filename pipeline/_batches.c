/* Makes columns of what a Kafka record batch holds, for `pipeline/kafka_python_records.py`.
 *
 * The format is that of https://kafka.apache.org/documentation/#recordbatch (magic 2). kafka-python
 * is the rule: where anything is not as it writes it (`ODD`), None is returned and the batch is left
 * to it, errors and all.
 *
 * Bounded by the batch's size; the GIL is held throughout.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

#include "../synchroscope/native/status.h"

static const int64_t LARGEST_EXACT = INT64_C(1) << 53; /* A float holds every integer up to there. */

enum {
    MAXIMUM_VARINT_BYTES = 10,
    KNOWN_NAMES = 16, /* names of headers that are remembered, by their place in a record */
    SMALLEST_RECORD = 7 /* bytes: one for each number */
};
/* What there is a column of, in the order of `Columns`: numbers in the first and the last one. */
enum { OFFSETS, KEYS, VALUES, HEADERS, TIMESTAMPS, COLUMNS_COUNT };

typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} Cursor;

typedef struct {
    int64_t base_offset;
    int64_t timestamp; /* milliseconds: the first one, or that of all */
    int is_appended;   /* The broker's time of appending stands for that of each record. */
    PyObject *columns[COLUMNS_COUNT];
    PyObject *no_bytes;
    PyObject *no_headers;
    PyObject *names[KNOWN_NAMES]; /* of the headers of the last record that had so many, or NULL */
} Batch;

/* Read a number in zigzag encoding. */
static Status read_number(Cursor *cursor, int64_t *number)
{
    uint64_t bits = 0;
    for (int place = 0; place < MAXIMUM_VARINT_BYTES; place++) {
        if (cursor->at == cursor->end) {
            return ODD;
        }
        const uint8_t byte = *cursor->at++;
        if (place == MAXIMUM_VARINT_BYTES - 1 && byte > 1) {
            return ODD;
        }
        bits |= (uint64_t)(byte & 0x7f) << (7 * place);
        if (!(byte & 0x80)) {
            *number = (int64_t)(bits >> 1) ^ -(int64_t)(bits & 1);
            return DONE;
        }
    }
    return ODD;
}

/* Read how many bytes follow, and give them; -1 stands for null. */
static Status read_stretch(Cursor *cursor, const uint8_t **data, int64_t *size)
{
    TRY(read_number(cursor, size));
    if (*size > cursor->end - cursor->at || *size < -1) {
        return ODD;
    }
    *data = cursor->at;
    cursor->at += *size < 0 ? 0 : *size;
    return DONE;
}

/* Nothing counts as none. */
static Status read_bytes(Cursor *cursor, const Batch *batch, PyObject **bytes)
{
    const uint8_t *data;
    int64_t size;
    TRY(read_stretch(cursor, &data, &size));
    *bytes = size <= 0 ? Py_NewRef(batch->no_bytes)
                       : PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size);
    return *bytes == NULL ? FAILED : DONE;
}

/* Give the text, which is most often that of the last record's header there. */
static Status read_name(Cursor *cursor, Batch *batch, int64_t place, PyObject **name)
{
    const uint8_t *data;
    int64_t size;
    TRY(read_stretch(cursor, &data, &size));
    if (size < 0) {
        return ODD;
    }
    PyObject **known = place < KNOWN_NAMES ? &batch->names[place] : NULL;
    if (known != NULL && *known != NULL && PyUnicode_IS_COMPACT_ASCII(*known) &&
        PyUnicode_GET_LENGTH(*known) == size &&
        memcmp(PyUnicode_DATA(*known), data, (size_t)size) == 0) {
        *name = Py_NewRef(*known);
        return DONE;
    }
    *name = PyUnicode_DecodeUTF8((const char *)data, (Py_ssize_t)size, NULL);
    if (*name == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            return FAILED;
        }
        PyErr_Clear();
        return ODD;
    }
    if (known != NULL) {
        Py_XSETREF(*known, Py_NewRef(*name));
    }
    return DONE;
}

static Status read_header(Cursor *cursor, Batch *batch, int64_t place, PyObject **header)
{
    PyObject *name = NULL, *value = NULL;
    Status status = read_name(cursor, batch, place, &name);
    if (status == DONE) {
        status = read_bytes(cursor, batch, &value);
    }
    if (status == DONE) {
        *header = PyTuple_Pack(2, name, value);
        status = *header == NULL ? FAILED : DONE;
    }
    Py_XDECREF(name);
    Py_XDECREF(value);
    return status;
}

/* Of these tuples Python's collector of cycles need not know: it would look at each once, to find
 * that there can be no cycle. */
static Status read_headers(Cursor *cursor, Batch *batch, PyObject **headers)
{
    int64_t count;
    TRY(read_number(cursor, &count));
    if (count < 0 || count > (cursor->end - cursor->at) / 2) {
        return ODD;
    }
    if (count == 0) {
        *headers = Py_NewRef(batch->no_headers);
        return DONE;
    }
    *headers = PyTuple_New((Py_ssize_t)count);
    if (*headers == NULL) {
        return FAILED;
    }
    PyObject_GC_UnTrack(*headers);
    for (int64_t place = 0; place < count; place++) {
        PyObject *header = NULL;
        TRY(read_header(cursor, batch, place, &header));
        PyObject_GC_UnTrack(header);
        PyTuple_SET_ITEM(*headers, (Py_ssize_t)place, header);
    }
    return DONE;
}

/* Give the time of a record in seconds. */
static Status take_seconds(const Batch *batch, int64_t delta, Py_ssize_t place)
{
    int64_t milliseconds;
    if (__builtin_add_overflow(batch->timestamp, batch->is_appended ? 0 : delta, &milliseconds) ||
        milliseconds < -LARGEST_EXACT || milliseconds > LARGEST_EXACT) {
        return ODD;
    }
    const double seconds = (double)milliseconds / 1000.0;
    memcpy(PyBytes_AS_STRING(batch->columns[TIMESTAMPS]) + (size_t)place * sizeof seconds, &seconds,
           sizeof seconds);
    return DONE;
}

/* Offsets rise: a place is looked for among them. */
static Status take_offset(const Batch *batch, int64_t delta, Py_ssize_t place)
{
    int64_t offset, before;
    char *at = PyBytes_AS_STRING(batch->columns[OFFSETS]) + (size_t)place * sizeof offset;
    if (__builtin_add_overflow(batch->base_offset, delta, &offset)) {
        return ODD;
    }
    if (place > 0) {
        memcpy(&before, at - sizeof before, sizeof before);
        if (offset <= before) {
            return ODD;
        }
    }
    memcpy(at, &offset, sizeof offset);
    return DONE;
}

static Status read_fields(Cursor *cursor, Batch *batch, Py_ssize_t place)
{
    int64_t attributes, timestamp_delta, offset_delta;
    PyObject *found = NULL;
    TRY(read_number(cursor, &attributes));
    TRY(read_number(cursor, &timestamp_delta));
    TRY(read_number(cursor, &offset_delta));
    TRY(take_offset(batch, offset_delta, place));
    TRY(take_seconds(batch, timestamp_delta, place));
    TRY(read_bytes(cursor, batch, &found));
    PyList_SET_ITEM(batch->columns[KEYS], place, found);
    TRY(read_bytes(cursor, batch, &found));
    PyList_SET_ITEM(batch->columns[VALUES], place, found);
    /* Unfinished headers are released with the column that they are put into. */
    found = NULL;
    const Status status = read_headers(cursor, batch, &found);
    PyList_SET_ITEM(batch->columns[HEADERS], place, found);
    return status;
}

static Status read_record(Cursor *cursor, Batch *batch, Py_ssize_t place)
{
    const uint8_t *data;
    int64_t size;
    TRY(read_stretch(cursor, &data, &size));
    if (size < 0) {
        return ODD;
    }
    Cursor inside = {data, data + size};
    TRY(read_fields(&inside, batch, place));
    return inside.at == inside.end ? DONE : ODD;
}

static Status read_records(Cursor *cursor, Batch *batch, Py_ssize_t count)
{
    for (Py_ssize_t place = 0; place < count; place++) {
        TRY(read_record(cursor, batch, place));
    }
    return cursor->at == cursor->end ? DONE : ODD;
}

static Status make_columns(Batch *batch, Py_ssize_t count)
{
    batch->no_bytes = PyBytes_FromStringAndSize(NULL, 0);
    batch->no_headers = PyTuple_New(0);
    if (batch->no_bytes == NULL || batch->no_headers == NULL) {
        return FAILED;
    }
    for (int column = 0; column < COLUMNS_COUNT; column++) {
        batch->columns[column] = column == OFFSETS || column == TIMESTAMPS
                                     ? PyBytes_FromStringAndSize(NULL, count * 8)
                                     : PyList_New(count);
        if (batch->columns[column] == NULL) {
            return FAILED;
        }
    }
    return DONE;
}

static void release_batch(Batch *batch)
{
    Py_XDECREF(batch->no_bytes);
    Py_XDECREF(batch->no_headers);
    for (int column = 0; column < COLUMNS_COUNT; column++) {
        Py_XDECREF(batch->columns[column]);
    }
    for (int place = 0; place < KNOWN_NAMES; place++) {
        Py_XDECREF(batch->names[place]);
    }
}

PyDoc_STRVAR(
    unpack_doc,
    "unpack(data, start, count, base_offset, timestamp, is_appended, /)\n--\n\n"
    "Return the columns of a batch, which `data` holds uncompressed from `start` on, those of "
    "numbers as their bytes; None: by the rule.");

static PyObject *unpack(PyObject *module, PyObject *arguments)
{
    Py_buffer data;
    Py_ssize_t start, count;
    long long base_offset, timestamp;
    Batch batch = {0};
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*nnLLp:unpack", &data, &start, &count, &base_offset,
                          &timestamp, &batch.is_appended)) {
        return NULL;
    }
    batch.base_offset = base_offset;
    batch.timestamp = timestamp;
    Status status = ODD;
    if (start >= 0 && start <= data.len && count >= 0 &&
        count <= (data.len - start) / SMALLEST_RECORD) {
        status = make_columns(&batch, count);
    }
    if (status == DONE) {
        const uint8_t *bytes = data.buf;
        Cursor cursor = {bytes + start, bytes + data.len};
        status = read_records(&cursor, &batch, count);
    }
    PyBuffer_Release(&data);
    PyObject *result = NULL;
    if (status == DONE) {
        result = PyTuple_New(COLUMNS_COUNT);
        for (int column = 0; result != NULL && column < COLUMNS_COUNT; column++) {
            PyTuple_SET_ITEM(result, column, Py_NewRef(batch.columns[column]));
        }
    } else if (status == ODD) {
        result = Py_NewRef(Py_None);
    }
    release_batch(&batch);
    return result;
}

static PyMethodDef METHODS[] = {
    {"unpack", unpack, METH_VARARGS, unpack_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {
    {0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pipeline._batches",
    .m_doc = "Makes columns of what a Kafka record batch holds.",
    .m_size = 0,
    .m_methods = METHODS,
    .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__batches(void)
{
    return PyModuleDef_Init(&MODULE);
}
