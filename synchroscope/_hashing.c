/* Hashes lists of facts, applied events and aggregates, and adds up what came of it, for
 * `synchroscope/native_hashing.py`.
 *
 * What `Hasher.fact`, `Hasher.applied`, `aggregate_hash` and `event_hash` do one by one in Python is
 * done here for a whole list, by xxh3 alone. Values become their canonical bytes
 * (docs/digest-spec.md) straight from Python's objects.
 *
 * The Python path is the rule. This one takes only objects of which it is sure; at the first that is
 * anything else (`ODD`) a function returns None, and the whole list is hashed by the rule, which
 * also says what is wrong. Back go: subclasses, types that JSON does not have, integers beyond 64
 * bits, lone surrogates, keys that are no text, what is deeper or larger than the limits below.
 *
 * The lists are the caller's own, and nobody else changes them meanwhile; the GIL is held throughout.
 */

#include "native/canonical.h"

enum {
    MAXIMUM_DEPTH = 32,     /* of a value; events may have 16 levels */
    MAXIMUM_PAIRS = 4096,   /* of an object that is a value */
    PAIRS_AT_HAND = 16,     /* of an object that needs no memory of its own */
    MAXIMUM_BITS = 20       /* MAXIMUM_BITS of synchroscope/digest.py */
};

/* -- canonical bytes of objects -------------------------------------------------------------- */

static Status put_item(Bytes *out, PyObject *value, int depth);

static Status put_encoded(Bytes *out, PyObject *text)
{
    /* Not PyUnicode_AsUTF8AndSize: its bytes would stay with the text for all of its life. */
    PyObject *data = PyUnicode_AsUTF8String(text);
    if (data == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            return FAILED;
        }
        PyErr_Clear();
        return ODD;
    }
    const size_t size = (size_t)PyBytes_GET_SIZE(data);
    Status status = put_head(out, 0x60, size);
    if (status == DONE) {
        status = put(out, PyBytes_AS_STRING(data), size);
    }
    Py_DECREF(data);
    return status;
}

static inline Status put_text(Bytes *out, PyObject *text)
{
    if (!PyUnicode_CheckExact(text)) {
        return ODD;
    }
    if (!PyUnicode_IS_COMPACT_ASCII(text)) {
        return put_encoded(out, text);
    }
    const size_t size = (size_t)PyUnicode_GET_LENGTH(text);
    TRY(put_head(out, 0x60, size));
    return put(out, PyUnicode_DATA(text), size);
}

static Status put_integer(Bytes *out, PyObject *value)
{
    int overflow;
    if (!PyLong_CheckExact(value)) {
        return ODD;
    }
    const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow < 0) {
        return ODD;
    }
    if (overflow > 0) {
        const unsigned long long large = PyLong_AsUnsignedLongLong(value);
        if (large == (unsigned long long)-1 && PyErr_Occurred()) {
            if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
                return FAILED;
            }
            PyErr_Clear();
            return ODD;
        }
        return put_head(out, 0x00, large);
    }
    if (number == -1 && PyErr_Occurred()) {
        return FAILED;
    }
    if (number >= 0) {
        return put_head(out, 0x00, (uint64_t)number);
    }
    return put_head(out, 0x20, (uint64_t)(-1 - number));
}

static Status put_float(Bytes *out, double value)
{
    if (isnan(value)) {
        return put(out, "\xf9\x7e\x00", 3);
    }
    if (isinf(value)) {
        return put(out, value > 0 ? "\xf9\x7c\x00" : "\xf9\xfc\x00", 3);
    }
    return put_fraction(out, value);
}

static Status put_items(Bytes *out, PyObject *value, int depth)
{
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(value);
    if (depth >= MAXIMUM_DEPTH) {
        return ODD;
    }
    TRY(put_head(out, 0x80, (uint64_t)count));
    for (Py_ssize_t place = 0; place < count; place++) {
        TRY(put_item(out, PySequence_Fast_GET_ITEM(value, place), depth + 1));
    }
    return DONE;
}

/* Return the place among `count` sorted pairs where another one belongs. */
static size_t place_of(const uint8_t *data, const Pair *pairs, size_t count, const Pair *pair)
{
    size_t low = 0, high = count;
    /* The keys of most objects come in order. */
    if (count > 0 && compare_keys(data, &pairs[count - 1], pair) < 0) {
        return count;
    }
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (compare_keys(data, &pairs[middle], pair) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static Status put_pairs(Bytes *out, PyObject *value, Pair *pairs, int depth)
{
    const size_t start = out->size;
    Py_ssize_t position = 0;
    PyObject *key, *item;
    size_t count = 0;
    bool is_sorted = true;
    while (PyDict_Next(value, &position, &key, &item)) {
        Pair pair = {.start = out->size};
        TRY(put_text(out, key));
        pair.key_size = out->size - pair.start;
        TRY(put_item(out, item, depth + 1));
        pair.size = out->size - pair.start;
        const size_t place = place_of(out->data, pairs, count, &pair);
        is_sorted = is_sorted && place == count;
        memmove(&pairs[place + 1], &pairs[place], (count - place) * sizeof pair);
        pairs[place] = pair;
        count++;
    }
    return is_sorted ? DONE : arrange(out, start, pairs, count);
}

static Status put_dict(Bytes *out, PyObject *value, int depth)
{
    Pair at_hand[PAIRS_AT_HAND];
    Pair *pairs = at_hand;
    const size_t count = (size_t)PyDict_GET_SIZE(value);
    if (depth >= MAXIMUM_DEPTH || count > MAXIMUM_PAIRS) {
        return ODD;
    }
    TRY(put_head(out, 0xa0, count));
    if (count > PAIRS_AT_HAND) {
        pairs = PyMem_Malloc(count * sizeof *pairs);
        if (pairs == NULL) {
            PyErr_NoMemory();
            return FAILED;
        }
    }
    const Status status = put_pairs(out, value, pairs, depth);
    if (pairs != at_hand) {
        PyMem_Free(pairs);
    }
    return status;
}

/* Write the canonical bytes of a value, as `encode` of synchroscope/canonical.py does. */
static Status put_item(Bytes *out, PyObject *value, int depth)
{
    if (PyUnicode_CheckExact(value)) {
        return put_text(out, value);
    }
    if (PyFloat_CheckExact(value)) {
        return put_float(out, PyFloat_AS_DOUBLE(value));
    }
    if (value == Py_None) {
        return put_byte(out, 0xf6);
    }
    if (value == Py_True) {
        return put_byte(out, 0xf5);
    }
    if (value == Py_False) {
        return put_byte(out, 0xf4);
    }
    if (PyLong_CheckExact(value)) {
        return put_integer(out, value);
    }
    if (PyList_CheckExact(value) || PyTuple_CheckExact(value)) {
        return put_items(out, value, depth);
    }
    return PyDict_CheckExact(value) ? put_dict(out, value, depth) : ODD;
}

/* -- what is hashed -------------------------------------------------------------------------- */

static inline bool is_tuple_of(PyObject *object, Py_ssize_t size)
{
    return PyTuple_CheckExact(object) && PyTuple_GET_SIZE(object) == size;
}

/* Write [context type, subject] as the only thing that `text` holds, and hash it. */
static Status put_aggregate(Bytes *text, PyObject *kind, PyObject *subject, uint64_t *hash)
{
    text->size = 0;
    TRY(put_byte(text, 0x82));
    TRY(put_text(text, kind));
    TRY(put_text(text, subject));
    *hash = XXH3_64bits(text->data, text->size);
    return DONE;
}

/* Hash a fact of whose bytes `text` holds all but the value. */
static Status hash_value(Bytes *text, PyObject *value, XXH128_hash_t *lanes)
{
    const size_t head = text->size;
    TRY(put_item(text, value, 0));
    *lanes = XXH3_128bits(text->data, text->size);
    text->size = head;
    return DONE;
}

/* What a list of changes gives, a row for each of them. */
typedef struct {
    uint64_t *hashes;
    uint64_t *lane0;
    uint64_t *lane1;
    int8_t *counts;
} Rows;

static Status take_change(Bytes *text, PyObject *change, const Rows *rows, Py_ssize_t place)
{
    if (!is_tuple_of(change, 4) || !is_tuple_of(PyTuple_GET_ITEM(change, 0), 2)) {
        return ODD;
    }
    PyObject *key = PyTuple_GET_ITEM(change, 0);
    PyObject *before = PyTuple_GET_ITEM(change, 2), *after = PyTuple_GET_ITEM(change, 3);
    XXH128_hash_t leaving = {0, 0}, entering = {0, 0};
    TRY(put_aggregate(
        text, PyTuple_GET_ITEM(key, 0), PyTuple_GET_ITEM(key, 1), &rows->hashes[place]));
    text->data[0] = 0x84;
    TRY(put_text(text, PyTuple_GET_ITEM(change, 1)));
    if (before != Py_None) {
        TRY(hash_value(text, before, &leaving));
    }
    if (after != Py_None) {
        TRY(hash_value(text, after, &entering));
    }
    rows->lane0[place] = entering.high64 - leaving.high64;
    rows->lane1[place] = entering.low64 - leaving.low64;
    rows->counts[place] = (int8_t)((after != Py_None) - (before != Py_None));
    return DONE;
}

/* The columns of a digest, each of so many buckets that `shift` leaves their numbers. */
typedef struct {
    Py_buffer views[3];
    int held;
    unsigned shift;
} Table;

static void release_table(Table *table)
{
    while (table->held > 0) {
        PyBuffer_Release(&table->views[--table->held]);
    }
}

static bool hold_table(Table *table, PyObject *const *columns, long bits)
{
    if (bits < 1 || bits > MAXIMUM_BITS) {
        PyErr_SetString(PyExc_ValueError, "a digest has no such number of bits");
        return false;
    }
    table->shift = (unsigned)(64 - bits);
    for (table->held = 0; table->held < 3; table->held++) {
        Py_buffer *view = &table->views[table->held];
        if (PyObject_GetBuffer(columns[table->held], view, PyBUF_WRITABLE) < 0) {
            return false;
        }
        if (view->len != (Py_ssize_t)sizeof(uint64_t) << bits) {
            PyBuffer_Release(view);
            PyErr_SetString(PyExc_ValueError, "a digest's column has another size");
            return false;
        }
    }
    return true;
}

static void add_rows(const Table *table, const Rows *rows, Py_ssize_t count)
{
    uint64_t *lane0 = table->views[0].buf, *lane1 = table->views[1].buf;
    uint64_t *counts = table->views[2].buf;
    for (Py_ssize_t place = 0; place < count; place++) {
        const uint64_t bucket = rows->hashes[place] >> table->shift;
        lane0[bucket] += rows->lane0[place];
        lane1[bucket] += rows->lane1[place];
        counts[bucket] += (uint64_t)(int64_t)rows->counts[place];
    }
}

/* Make an applied event with its ID's hash instead of its ID. */
static Status set_entry(PyObject **entry, PyObject *applied, uint64_t hash)
{
    PyObject *number = PyLong_FromUnsignedLongLong(hash);
    *entry = number == NULL ? NULL : PyTuple_New(4);
    if (*entry == NULL) {
        Py_XDECREF(number);
        return FAILED;
    }
    PyTuple_SET_ITEM(*entry, 0, Py_NewRef(PyTuple_GET_ITEM(applied, 0)));
    PyTuple_SET_ITEM(*entry, 1, number);
    PyTuple_SET_ITEM(*entry, 2, Py_NewRef(PyTuple_GET_ITEM(applied, 2)));
    PyTuple_SET_ITEM(*entry, 3, Py_NewRef(PyTuple_GET_ITEM(applied, 3)));
    return DONE;
}

static Status take_applied(
    Bytes *text, PyObject *applied, PyObject **entry, XXH128_hash_t *total)
{
    if (!is_tuple_of(applied, 4)) {
        return ODD;
    }
    text->size = 0;
    TRY(put_byte(text, 0x83));
    TRY(put_integer(text, PyTuple_GET_ITEM(applied, 0)));
    const size_t start = text->size;
    TRY(put_text(text, PyTuple_GET_ITEM(applied, 1)));
    const uint8_t size = text->data[start] & 0x1f;
    const size_t head = size < 24 ? 1 : 1 + ((size_t)1 << (size - 24));
    const uint64_t hash = XXH3_64bits(text->data + start + head, text->size - start - head);
    TRY(put_integer(text, PyTuple_GET_ITEM(applied, 3)));
    const XXH128_hash_t lanes = XXH3_128bits(text->data, text->size);
    total->high64 += lanes.high64;
    total->low64 += lanes.low64;
    return set_entry(entry, applied, hash);
}

/* -- what Python is given -------------------------------------------------------------------- */

/* Return what a function gives: its result, None where the rule must decide. */
static PyObject *given(Status status, PyObject *result)
{
    if (status == DONE) {
        return result;
    }
    Py_XDECREF(result);
    return status == ODD ? Py_NewRef(Py_None) : NULL;
}

static bool is_list(PyObject *object)
{
    if (!PyList_CheckExact(object)) {
        PyErr_SetString(PyExc_TypeError, "a list is needed");
        return false;
    }
    return true;
}

PyDoc_STRVAR(
    hash_fact_doc,
    "hash_fact(context_type, subject, field, value, /)\n--\n\n"
    "Return the lanes of a fact; None: by the rule.");

static PyObject *hash_fact(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "hash_fact takes context type, subject, field and value");
        return NULL;
    }
    Bytes text = {NULL, 0, 0};
    XXH128_hash_t lanes = {0, 0};
    Status status = put_byte(&text, 0x84);
    for (Py_ssize_t place = 0; place < 3 && status == DONE; place++) {
        status = put_text(&text, arguments[place]);
    }
    if (status == DONE) {
        status = hash_value(&text, arguments[3], &lanes);
    }
    release(&text);
    if (status != DONE) {
        return given(status, NULL);
    }
    return Py_BuildValue(
        "(KK)", (unsigned long long)lanes.high64, (unsigned long long)lanes.low64);
}

PyDoc_STRVAR(
    hash_changes_doc,
    "hash_changes(changes, lane0, lane1, counts, bits, /)\n--\n\n"
    "Work a list of (aggregate, field, value before, value after) into the columns of a digest.\n\n"
    "Return the hashes of the aggregates, and what each row changed lane 0 by, as columns of 64\n"
    "bits. None, and nothing is changed: by the rule.");

static PyObject *take_changes(PyObject *changes, const Table *table)
{
    const Py_ssize_t count = PyList_GET_SIZE(changes), size = count * (Py_ssize_t)sizeof(uint64_t);
    PyObject *hashes = PyBytes_FromStringAndSize(NULL, size);
    PyObject *lane0 = PyBytes_FromStringAndSize(NULL, size);
    Bytes text = {NULL, 0, 0}, others = {NULL, 0, 0};
    PyObject *result = NULL;
    Status status = hashes == NULL || lane0 == NULL ? FAILED : DONE;
    if (status == DONE) {
        status = reserve(&others, (size_t)count * (sizeof(uint64_t) + sizeof(int8_t)) + 1);
    }
    if (status == DONE) {
        const Rows rows = {
            (uint64_t *)(void *)PyBytes_AS_STRING(hashes),
            (uint64_t *)(void *)PyBytes_AS_STRING(lane0),
            (uint64_t *)(void *)others.data,
            (int8_t *)others.data + size,
        };
        for (Py_ssize_t place = 0; place < count && status == DONE; place++) {
            status = take_change(&text, PyList_GET_ITEM(changes, place), &rows, place);
        }
        if (status == DONE) {
            result = PyTuple_Pack(2, hashes, lane0);
            if (result != NULL) {
                add_rows(table, &rows, count);
            }
        }
    }
    release(&text);
    release(&others);
    Py_XDECREF(hashes);
    Py_XDECREF(lane0);
    return given(status, result);
}

static PyObject *hash_changes(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "hash_changes takes changes, three columns and bits");
        return NULL;
    }
    if (!is_list(arguments[0])) {
        return NULL;
    }
    const long bits = PyLong_AsLong(arguments[4]);
    if (bits == -1 && PyErr_Occurred()) {
        return NULL;
    }
    Table table = {.held = 0};
    PyObject *result = NULL;
    if (hold_table(&table, arguments + 1, bits)) {
        result = take_changes(arguments[0], &table);
    }
    release_table(&table);
    return result;
}

/* Put a number at a place of a list. */
static Status set_number(PyObject *list, Py_ssize_t place, uint64_t number)
{
    PyObject *object = PyLong_FromUnsignedLongLong(number);
    if (object == NULL) {
        return FAILED;
    }
    PyList_SET_ITEM(list, place, object);
    return DONE;
}

PyDoc_STRVAR(
    hash_applied_doc,
    "hash_applied(events, /)\n--\n\n"
    "Return of a list of (offset, event ID, sequence, prior sequence) the same with the hashes of\n"
    "the event IDs, and the sum of the lanes; None: by the rule.");

static PyObject *hash_applied(PyObject *module, PyObject *events)
{
    (void)module;
    if (!is_list(events)) {
        return NULL;
    }
    const Py_ssize_t count = PyList_GET_SIZE(events);
    PyObject *entries = PyList_New(count);
    if (entries == NULL) {
        return NULL;
    }
    XXH128_hash_t total = {0, 0};
    Bytes text = {NULL, 0, 0};
    Status status = DONE;
    for (Py_ssize_t place = 0; place < count && status == DONE; place++) {
        PyObject *entry = NULL;
        status = take_applied(&text, PyList_GET_ITEM(events, place), &entry, &total);
        if (status == DONE) {
            PyList_SET_ITEM(entries, place, entry);
        }
    }
    release(&text);
    if (status != DONE) {
        return given(status, entries);
    }
    return Py_BuildValue(
        "(NKK)", entries, (unsigned long long)total.high64, (unsigned long long)total.low64);
}

PyDoc_STRVAR(
    hash_aggregates_doc,
    "hash_aggregates(keys, /)\n--\n\n"
    "Return the hashes of a list of (context type, subject); None: by the rule.");

static PyObject *hash_aggregates(PyObject *module, PyObject *keys)
{
    (void)module;
    if (!is_list(keys)) {
        return NULL;
    }
    const Py_ssize_t count = PyList_GET_SIZE(keys);
    PyObject *hashes = PyList_New(count);
    if (hashes == NULL) {
        return NULL;
    }
    Bytes text = {NULL, 0, 0};
    Status status = DONE;
    for (Py_ssize_t place = 0; place < count && status == DONE; place++) {
        PyObject *key = PyList_GET_ITEM(keys, place);
        uint64_t hash = 0;
        status = is_tuple_of(key, 2)
                     ? put_aggregate(
                           &text, PyTuple_GET_ITEM(key, 0), PyTuple_GET_ITEM(key, 1), &hash)
                     : ODD;
        if (status == DONE) {
            status = set_number(hashes, place, hash);
        }
    }
    release(&text);
    return given(status, hashes);
}

/* -- sums ------------------------------------------------------------------------------------ */

/* Some columns of numbers of 64 bits. */
enum { COLUMNS_MAXIMUM = 3 };
typedef struct {
    Py_buffer buffers[COLUMNS_MAXIMUM];
    int count;
} Columns;

static void release_columns(Columns *columns)
{
    while (columns->count > 0) {
        PyBuffer_Release(&columns->buffers[--columns->count]);
    }
}

/* Take columns, of which the first is written to and the others are of one length. */
static Status take_columns(PyObject *const *arguments, int count, Columns *columns)
{
    for (columns->count = 0; columns->count < count; columns->count++) {
        const int flags = columns->count == 0 ? PyBUF_CONTIG : PyBUF_CONTIG_RO;
        Py_buffer *buffer = &columns->buffers[columns->count];
        if (PyObject_GetBuffer(arguments[columns->count], buffer, flags) < 0) {
            release_columns(columns);
            return FAILED;
        }
    }
    for (int place = 0; place < count; place++) {
        const Py_buffer *buffer = &columns->buffers[place];
        if (buffer->itemsize != sizeof(uint64_t) ||
            (place > 1 && buffer->len != columns->buffers[1].len)) {
            PyErr_SetString(PyExc_ValueError, "columns of numbers of 64 bits, of one length, are wanted");
            release_columns(columns);
            return FAILED;
        }
    }
    return DONE;
}

PyDoc_STRVAR(
    add_at_doc,
    "add_at(sums, places, values, /)\n--\n\n"
    "Add each of the values to the sum at its place, mod 2^64; IndexError, where there is none, "
    "leaves those before it added.");

static PyObject *add_at(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    Columns columns;
    (void)module;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "add_at takes three columns");
        return NULL;
    }
    if (take_columns(arguments, 3, &columns) != DONE) {
        return NULL;
    }
    uint64_t *sums = columns.buffers[0].buf;
    const uint64_t *places = columns.buffers[1].buf, *values = columns.buffers[2].buf;
    const size_t room = (size_t)columns.buffers[0].len / sizeof(uint64_t);
    const size_t rows = (size_t)columns.buffers[1].len / sizeof(uint64_t);
    size_t row = 0;
    for (; row < rows && places[row] < room; row++) {
        sums[places[row]] += values[row];
    }
    release_columns(&columns);
    if (row < rows) {
        PyErr_SetString(PyExc_IndexError, "no sum at that place");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* CELLS, POSITIONS, BELOW_BUCKET_BITS, MAXIMUM_SKETCH_BITS and _MIXER of synchroscope/sketch.py. */
enum { CELLS = 64, POSITIONS = 4, BELOW_BUCKET_BITS = 24, MAXIMUM_SKETCH_BITS = 12 };
static const uint64_t MIXER = UINT64_C(0x9E3779B97F4A7C15);

PyDoc_STRVAR(
    add_to_sketches_doc,
    "add_to_sketches(cells, hashes, lanes, bits, /)\n--\n\n"
    "Count facts in the sketches of `2**bits` buckets: the cells' sums, then their weighed sums.");

static PyObject *add_to_sketches(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    Columns columns;
    (void)module;
    const long bits = count == 4 ? PyLong_AsLong(arguments[3]) : -1;
    if (bits < 0 || bits > MAXIMUM_SKETCH_BITS) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "add_to_sketches: wrong arguments");
        }
        return NULL;
    }
    if (take_columns(arguments, 3, &columns) != DONE) {
        return NULL;
    }
    const size_t room = (size_t)CELLS << bits;
    if ((size_t)columns.buffers[0].len != 2 * room * sizeof(uint64_t)) {
        release_columns(&columns);
        PyErr_SetString(PyExc_ValueError, "add_to_sketches: not as many cells as there are");
        return NULL;
    }
    uint64_t *sums = columns.buffers[0].buf, *weighed = sums + room;
    const uint64_t *hashes = columns.buffers[1].buf, *lanes = columns.buffers[2].buf;
    const size_t rows = (size_t)columns.buffers[1].len / sizeof(uint64_t);
    for (size_t row = 0; row < rows; row++) {
        const uint64_t number = hashes[row] >> (64 - bits - BELOW_BUCKET_BITS);
        const uint64_t mixed = number * MIXER, times = lanes[row] * number;
        const size_t first = (size_t)(number >> BELOW_BUCKET_BITS) * CELLS;
        for (int position = 0; position < POSITIONS; position++) {
            const size_t cell = mixed >> (56 - 8 * position) & (CELLS / POSITIONS - 1);
            const size_t place = first + cell * POSITIONS + (size_t)position;
            sums[place] += lanes[row];
            weighed[place] += times;
        }
    }
    release_columns(&columns);
    Py_RETURN_NONE;
}

/* -- the module ------------------------------------------------------------------------------ */

static PyMethodDef METHODS[] = {
    {"hash_fact", (PyCFunction)(void (*)(void))hash_fact, METH_FASTCALL, hash_fact_doc},
    {"hash_changes", (PyCFunction)(void (*)(void))hash_changes, METH_FASTCALL, hash_changes_doc},
    {"hash_applied", hash_applied, METH_O, hash_applied_doc},
    {"hash_aggregates", hash_aggregates, METH_O, hash_aggregates_doc},
    {"add_at", (PyCFunction)(void (*)(void))add_at, METH_FASTCALL, add_at_doc},
    {"add_to_sketches", (PyCFunction)(void (*)(void))add_to_sketches, METH_FASTCALL,
     add_to_sketches_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {
    {0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "synchroscope._hashing",
    .m_doc = "Hashes lists of facts, applied events and aggregates.",
    .m_size = 0,
    .m_methods = METHODS,
    .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__hashing(void)
{
    return PyModuleDef_Init(&MODULE);
}
