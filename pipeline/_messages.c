/* Makes records of a client's messages, for `pipeline/kafka_confluent_records.py`.
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
/* What a record is made of, in the order of `Record`. */
enum { RECORD_OFFSET, RECORD_KEY, RECORD_VALUE, RECORD_HEADERS, RECORD_TIMESTAMP, FIELDS_COUNT };

typedef struct {
    PyObject *methods; /* a tuple of `METHODS_COUNT` */
    PyCFunction functions[METHODS_COUNT]; /* what is behind them for a `type`, or NULL */
    PyTypeObject *type;
    PyObject *make_record;
    PyObject *no_bytes;
    PyObject *no_headers;
    PyObject *runs;      /* a list of (topic, partition, records, bytes) */
    PyObject *topic;     /* of the run that is being made, as are the next three; NULL: none */
    PyObject *partition;
    PyObject *records;
    Py_ssize_t bytes;    /* of keys and values */
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

static Status take_seconds(const Making *making, PyObject *message, PyObject **seconds)
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
            *seconds = PyFloat_FromDouble((double)milliseconds / 1000.0);
            status = *seconds == NULL ? FAILED : DONE;
        }
    }
    Py_DECREF(found);
    return status;
}

static Status take_fields(const Making *making, PyObject *message, PyObject **fields)
{
    fields[RECORD_OFFSET] = asked(making, OFFSET, message);
    if (fields[RECORD_OFFSET] == NULL) {
        return FAILED;
    }
    TRY(take_bytes(making, KEY, message, &fields[RECORD_KEY]));
    TRY(take_bytes(making, VALUE, message, &fields[RECORD_VALUE]));
    TRY(take_headers(making, message, &fields[RECORD_HEADERS]));
    return take_seconds(making, message, &fields[RECORD_TIMESTAMP]);
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

/* Add the run that was being made to the others. */
static Status end_run(Making *making)
{
    if (making->records == NULL) {
        return DONE;
    }
    PyObject *run = Py_BuildValue("NNNn", making->topic, making->partition, making->records,
                                  making->bytes);
    making->topic = making->partition = making->records = NULL;
    making->bytes = 0;
    const int failure = run == NULL ? -1 : PyList_Append(making->runs, run);
    Py_XDECREF(run);
    return failure ? FAILED : DONE;
}

/* Say whether a message goes on with the run that is being made; -1: it failed. */
static int is_of_run(const Making *making, PyObject *topic, PyObject *partition)
{
    if (making->records == NULL) {
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
    making->records = PyList_New(0);
    if (making->records == NULL) {
        return FAILED;
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
    PyObject *fields[FIELDS_COUNT] = {NULL};
    if (status == DONE) {
        status = take_fields(making, message, fields);
    }
    if (status == DONE) {
        making->bytes +=
            PyBytes_GET_SIZE(fields[RECORD_KEY]) + PyBytes_GET_SIZE(fields[RECORD_VALUE]);
        PyObject *record = PyObject_Vectorcall(making->make_record, fields, FIELDS_COUNT, NULL);
        status = record != NULL && PyList_Append(making->records, record) == 0 ? DONE : FAILED;
        Py_XDECREF(record);
    }
    for (int place = 0; place < FIELDS_COUNT; place++) {
        Py_XDECREF(fields[place]);
    }
    return status;
}

static Status take_messages(Making *making, PyObject *messages)
{
    for (Py_ssize_t place = 0; place < PyList_GET_SIZE(messages); place++) {
        PyObject *message = Py_NewRef(PyList_GET_ITEM(messages, place));
        const Status status = take_message(making, message);
        Py_DECREF(message);
        TRY(status);
    }
    return end_run(making);
}

PyDoc_STRVAR(
    runs_doc,
    "runs(messages, methods, make_record, /)\n--\n\n"
    "Return (topic, partition, records, bytes of their keys and values) of messages in a row; None: "
    "by the rule.");

static PyObject *runs(PyObject *module, PyObject *arguments)
{
    PyObject *messages;
    Making making = {NULL};
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!O!O:runs", &PyList_Type, &messages, &PyTuple_Type,
                          &making.methods, &making.make_record)) {
        return NULL;
    }
    if (PyTuple_GET_SIZE(making.methods) != METHODS_COUNT) {
        PyErr_SetString(PyExc_ValueError, "methods: not as many as are called");
        return NULL;
    }
    find_functions(&making);
    making.no_bytes = PyBytes_FromStringAndSize(NULL, 0);
    making.no_headers = PyTuple_New(0);
    making.runs = PyList_New(0);
    Status status = FAILED;
    if (making.no_bytes != NULL && making.no_headers != NULL && making.runs != NULL) {
        status = take_messages(&making, messages);
    }
    Py_XDECREF(making.no_bytes);
    Py_XDECREF(making.no_headers);
    Py_XDECREF(making.topic);
    Py_XDECREF(making.partition);
    Py_XDECREF(making.records);
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
    .m_doc = "Makes records of a client's messages.",
    .m_size = 0,
    .m_methods = METHODS,
    .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__messages(void)
{
    return PyModuleDef_Init(&MODULE);
}
