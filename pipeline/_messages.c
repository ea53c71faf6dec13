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
    PyObject *make_record;
    PyObject *no_bytes;
    PyObject *no_headers;
    PyObject *runs;      /* a list of (topic, partition, records) */
    PyObject *topic;     /* of the last run, borrowed from it, as are the next two; NULL: none */
    PyObject *partition;
    PyObject *records;
} Making;

static PyObject *asked(const Making *making, int method, PyObject *message)
{
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
           PyBytes_CheckExact(PyTuple_GET_ITEM(header, 1));
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
            *headers = PyList_AsTuple(found);
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

/* Go on with the last run, or begin another. */
static Status enter_run(Making *making, PyObject *topic, PyObject *partition)
{
    if (!PyUnicode_CheckExact(topic) || !PyLong_CheckExact(partition)) {
        return ODD;
    }
    if (making->records != NULL) {
        int is_same = partition == making->partition ||
                      PyObject_RichCompareBool(partition, making->partition, Py_EQ) == 1;
        is_same = is_same && PyUnicode_Compare(topic, making->topic) == 0;
        if (PyErr_Occurred()) {
            return FAILED;
        }
        if (is_same) {
            return DONE;
        }
    }
    PyObject *records = PyList_New(0);
    PyObject *run = records == NULL ? NULL : PyTuple_Pack(3, topic, partition, records);
    Py_XDECREF(records);
    const int failure = run == NULL ? -1 : PyList_Append(making->runs, run);
    Py_XDECREF(run);
    if (failure) {
        return FAILED;
    }
    making->topic = topic;
    making->partition = partition;
    making->records = records;
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
    return DONE;
}

PyDoc_STRVAR(
    runs_doc,
    "runs(messages, methods, make_record, /)\n--\n\n"
    "Return (topic, partition, records) of messages in a row; None: by the rule.");

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
    making.no_bytes = PyBytes_FromStringAndSize(NULL, 0);
    making.no_headers = PyTuple_New(0);
    making.runs = PyList_New(0);
    Status status = FAILED;
    if (making.no_bytes != NULL && making.no_headers != NULL && making.runs != NULL) {
        status = take_messages(&making, messages);
    }
    Py_XDECREF(making.no_bytes);
    Py_XDECREF(making.no_headers);
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
