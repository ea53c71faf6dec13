/* Makes columns of a client's messages, for `pipeline/kafka_confluent_records.py`.
 *
 * The Python path is the rule. This one goes over the messages once instead of column by column, and
 * makes the same of them; where one holds an error or anything unusual (`ODD`) it returns None, and
 * all of them are left to the rule. It knows nothing of the client but the methods that it is given.
 *
 * Bounded by the number of messages; the GIL is held throughout.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

#include "../synchroscope/native/status.h"

static const long long LARGEST_EXACT = 1LL << 53; /* A float holds every integer up to there. */

/* The methods of a message, in the order in which Python gives them; then those of `fields`. */
enum { ERROR, TOPIC, PARTITION, TIMESTAMP, HEADERS, OFFSET, KEY, VALUE, METHODS_COUNT };
/* The columns of objects, in the order of `Records`; its first and last ones are of numbers. */
enum { KEYS, VALUES, HEADERS_OF_ALL, LISTS_COUNT };

typedef struct {
    PyObject *methods; /* a tuple of `METHODS_COUNT` */
    PyCFunction functions[METHODS_COUNT]; /* what is behind them for a `type`, or NULL */
    PyTypeObject *type;
    PyObject *no_bytes;
    PyObject *no_headers;
    PyObject *runs;      /* a list of (topic, partition, columns…, bytes of keys and values) */
    PyObject *topic;     /* of the run that is being made, as is all that follows; NULL: none */
    PyObject *partition;
    PyObject *lists[LISTS_COUNT];
    int64_t *offsets;    /* with room for all messages */
    double *seconds;
    Py_ssize_t count;
    Py_ssize_t bytes;
} Making;

/* Note the functions behind the methods: a method without arguments needs no more than its object. */
static void find_functions(Making *making)
{
    for (int method = 0; method < METHODS_COUNT; method++) {
        PyObject *descriptor = PyTuple_GET_ITEM(making->methods, method);
        if (!Py_IS_TYPE(descriptor, &PyMethodDescr_Type)) {
            continue;
        }
        const PyMethodDef *definition = ((PyMethodDescrObject *)descriptor)->d_method;
        PyTypeObject *type = ((PyDescrObject *)descriptor)->d_type;
        making->type = making->type == NULL ? type : making->type;
        if (definition->ml_flags == METH_NOARGS && type == making->type) {
            making->functions[method] = definition->ml_meth;
        }
    }
}

static PyObject *asked(const Making *making, int method, PyObject *message)
{
    if (making->functions[method] != NULL && Py_IS_TYPE(message, making->type)) {
        return making->functions[method](message, NULL);
    }
    return PyObject_CallOneArg(PyTuple_GET_ITEM(making->methods, method), message);
}

/* Give the bytes that a message has there; nothing counts as none. */
static Status take_bytes(const Making *making, int method, PyObject *message, PyObject **bytes)
{
    *bytes = asked(making, method, message);
    if (*bytes == NULL) {
        return FAILED;
    }
    if (*bytes == Py_None) {
        Py_SETREF(*bytes, Py_NewRef(making->no_bytes));
    }
    return PyBytes_CheckExact(*bytes) ? DONE : ODD;
}

/* Say whether that is a pair of a name and bytes, as all but foreign producers write it. */
static int is_plain(PyObject *header)
{
    return PyTuple_CheckExact(header) && PyTuple_GET_SIZE(header) == 2 &&
           PyUnicode_CheckExact(PyTuple_GET_ITEM(header, 0)) &&
           PyBytes_CheckExact(PyTuple_GET_ITEM(header, 1));
}

/* Give the pairs as a tuple of which Python's collector of cycles need not know: it would look at
 * each once, to find that there can be no cycle, and this took a fifth of all reading. */
static PyObject *untracked(PyObject *pairs)
{
    PyObject *tuple = PyList_AsTuple(pairs);
    if (tuple != NULL && PyTuple_GET_SIZE(tuple)) { /* The empty one is all of Python's. */
        for (Py_ssize_t place = 0; place < PyTuple_GET_SIZE(tuple); place++) {
            PyObject_GC_UnTrack(PyTuple_GET_ITEM(tuple, place));
        }
        PyObject_GC_UnTrack(tuple);
    }
    return tuple;
}

static Status take_headers(const Making *making, PyObject *message, PyObject **headers)
{
    PyObject *found = asked(making, HEADERS, message);
    if (found == NULL) {
        return FAILED;
    }
    Status status = DONE;
    if (found == Py_None) {
        *headers = Py_NewRef(making->no_headers);
    } else if (!PyList_CheckExact(found)) {
        status = ODD;
    } else {
        for (Py_ssize_t place = 0; place < PyList_GET_SIZE(found) && status == DONE; place++) {
            status = is_plain(PyList_GET_ITEM(found, place)) ? DONE : ODD;
        }
        if (status == DONE) {
            *headers = untracked(found);
            status = *headers == NULL ? FAILED : DONE;
        }
    }
    Py_DECREF(found);
    return status;
}

static Status take_seconds(const Making *making, PyObject *message, double *seconds)
{
    PyObject *found = asked(making, TIMESTAMP, message);
    if (found == NULL) {
        return FAILED;
    }
    Status status = ODD;
    if (PyTuple_CheckExact(found) && PyTuple_GET_SIZE(found) == 2 &&
        PyLong_CheckExact(PyTuple_GET_ITEM(found, 1))) {
        int is_over;
        const long long milliseconds =
            PyLong_AsLongLongAndOverflow(PyTuple_GET_ITEM(found, 1), &is_over);
        if (!is_over && milliseconds >= -LARGEST_EXACT && milliseconds <= LARGEST_EXACT) {
            *seconds = (double)milliseconds / 1000.0;
            status = DONE;
        }
    }
    Py_DECREF(found);
    return status;
}

static Status take_offset(const Making *making, PyObject *message, int64_t *offset)
{
    PyObject *found = asked(making, OFFSET, message);
    if (found == NULL) {
        return FAILED;
    }
    int is_over = 1;
    if (PyLong_CheckExact(found)) {
        *offset = PyLong_AsLongLongAndOverflow(found, &is_over);
    }
    Py_DECREF(found);
    return is_over ? ODD : DONE;
}

/* Add what a message holds to the columns of the present run. */
static Status take_fields(Making *making, PyObject *message)
{
    PyObject *key = NULL, *value = NULL, *headers = NULL;
    Status status = take_offset(making, message, &making->offsets[making->count]);
    if (status == DONE) {
        status = take_seconds(making, message, &making->seconds[making->count]);
    }
    if (status == DONE) {
        status = take_bytes(making, KEY, message, &key);
    }
    if (status == DONE) {
        status = take_bytes(making, VALUE, message, &value);
    }
    if (status == DONE) {
        status = take_headers(making, message, &headers);
    }
    if (status == DONE) {
        making->count++;
        making->bytes += PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(value);
        const int failure = PyList_Append(making->lists[KEYS], key) ||
                            PyList_Append(making->lists[VALUES], value) ||
                            PyList_Append(making->lists[HEADERS_OF_ALL], headers);
        status = failure ? FAILED : DONE;
    }
    Py_XDECREF(key);
    Py_XDECREF(value);
    Py_XDECREF(headers);
    return status;
}

static Status is_without_error(const Making *making, PyObject *message)
{
    PyObject *error = asked(making, ERROR, message);
    if (error == NULL) {
        return FAILED;
    }
    const Status status = error == Py_None ? DONE : ODD;
    Py_DECREF(error);
    return status;
}

static void leave_run(Making *making)
{
    Py_CLEAR(making->topic);
    Py_CLEAR(making->partition);
    for (int column = 0; column < LISTS_COUNT; column++) {
        Py_CLEAR(making->lists[column]);
    }
    making->count = making->bytes = 0;
}

/* Add the run that was being made to the others. */
static Status end_run(Making *making)
{
    if (making->topic == NULL) {
        return DONE;
    }
    PyObject *run = Py_BuildValue(
        "OOy#OOOy#n", making->topic, making->partition, making->offsets,
        making->count * (Py_ssize_t)sizeof(int64_t), making->lists[KEYS], making->lists[VALUES],
        making->lists[HEADERS_OF_ALL], making->seconds, making->count * (Py_ssize_t)sizeof(double),
        making->bytes);
    leave_run(making);
    const int failure = run == NULL ? -1 : PyList_Append(making->runs, run);
    Py_XDECREF(run);
    return failure ? FAILED : DONE;
}

/* Say whether a message goes on with the run that is being made; -1: it failed. */
static int is_of_run(const Making *making, PyObject *topic, PyObject *partition)
{
    if (making->topic == NULL) {
        return 0;
    }
    if (partition != making->partition) {
        const int is_same = PyObject_RichCompareBool(partition, making->partition, Py_EQ);
        if (is_same != 1) {
            return is_same;
        }
    }
    const int is_same = topic == making->topic || PyUnicode_Compare(topic, making->topic) == 0;
    return PyErr_Occurred() ? -1 : is_same;
}

/* Go on with the last run, or begin another. */
static Status enter_run(Making *making, PyObject *topic, PyObject *partition)
{
    if (!PyUnicode_CheckExact(topic) || !PyLong_CheckExact(partition)) {
        return ODD;
    }
    const int goes_on = is_of_run(making, topic, partition);
    if (goes_on) {
        return goes_on < 0 ? FAILED : DONE;
    }
    TRY(end_run(making));
    for (int column = 0; column < LISTS_COUNT; column++) {
        making->lists[column] = PyList_New(0);
        if (making->lists[column] == NULL) {
            return FAILED;
        }
    }
    making->topic = Py_NewRef(topic);
    making->partition = Py_NewRef(partition);
    return DONE;
}

static Status take_message(Making *making, PyObject *message)
{
    TRY(is_without_error(making, message));
    PyObject *topic = asked(making, TOPIC, message);
    PyObject *partition = topic == NULL ? NULL : asked(making, PARTITION, message);
    Status status = partition == NULL ? FAILED : enter_run(making, topic, partition);
    Py_XDECREF(topic);
    Py_XDECREF(partition);
    return status == DONE ? take_fields(making, message) : status;
}

/* There is room for so many; where the list changes while they are asked, it is for the rule. */
static Status take_messages(Making *making, PyObject *messages, Py_ssize_t count)
{
    for (Py_ssize_t place = 0; place < count; place++) {
        PyObject *message = Py_NewRef(PyList_GET_ITEM(messages, place));
        const Status status = take_message(making, message);
        Py_DECREF(message);
        TRY(status);
        if (PyList_GET_SIZE(messages) != count) {
            return ODD;
        }
    }
    return end_run(making);
}

static Status make_runs(Making *making, PyObject *messages)
{
    const Py_ssize_t count = PyList_GET_SIZE(messages);
    find_functions(making);
    making->no_bytes = PyBytes_FromStringAndSize(NULL, 0);
    making->no_headers = PyTuple_New(0);
    making->runs = PyList_New(0);
    making->offsets = PyMem_New(int64_t, (size_t)count);
    making->seconds = PyMem_New(double, (size_t)count);
    if (making->no_bytes == NULL || making->no_headers == NULL || making->runs == NULL) {
        return FAILED;
    }
    if (making->offsets == NULL || making->seconds == NULL) {
        PyErr_NoMemory();
        return FAILED;
    }
    return take_messages(making, messages, count);
}

PyDoc_STRVAR(
    runs_doc,
    "runs(messages, methods, /)\n--\n\n"
    "Return (topic, partition, columns of `Records`, bytes of keys and values) of messages in a row; "
    "the columns of numbers as their bytes. None: by the rule.");

static PyObject *runs(PyObject *module, PyObject *arguments)
{
    PyObject *messages;
    Making making = {NULL};
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!O!:runs", &PyList_Type, &messages, &PyTuple_Type,
                          &making.methods)) {
        return NULL;
    }
    if (PyTuple_GET_SIZE(making.methods) != METHODS_COUNT) {
        PyErr_SetString(PyExc_ValueError, "methods: not as many as are called");
        return NULL;
    }
    const Status status = make_runs(&making, messages);
    Py_XDECREF(making.no_bytes);
    Py_XDECREF(making.no_headers);
    leave_run(&making);
    PyMem_Free(making.offsets);
    PyMem_Free(making.seconds);
    if (status == DONE) {
        return making.runs;
    }
    Py_XDECREF(making.runs);
    return status == ODD ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef METHODS[] = {
    {"runs", runs, METH_VARARGS, runs_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {
    {0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pipeline._messages",
    .m_doc = "Makes columns of a client's messages.",
    .m_size = 0,
    .m_methods = METHODS,
    .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__messages(void)
{
    return PyModuleDef_Init(&MODULE);
}
