/* Reads a batch of events into columns, for `validator/batch_columns.py`.
 *
 * What `BatchFold` does event by event in Python is done here in one pass over each record's bytes:
 * the JSON is checked and read for the fields of `WireEvent` alone, values become their canonical
 * bytes (docs/digest-spec.md), and what has to be hashed is hashed. Of views nothing is known here:
 * each distinct combination of context type, field and target models is handed out once, and Python
 * says which views it concerns.
 *
 * The Python path is the rule. This one takes only what it is sure that the rule takes, and gives
 * the same for it, to the bit; at the first byte that is anything else (`ODD`) `read` returns None,
 * and the whole batch is read by the rule. So no doubt about JSON has to be decided here: what is
 * refused, what a key said twice means, how far a number may go.
 *
 * Everything is bounded by the input's size and the limits below; the GIL is held throughout.
 */

#include "../synchroscope/native/canonical.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum {
    MAXIMUM_SKIPPED_DEPTH = 32, /* of what is passed over; deeper is odd */
    MAXIMUM_VALUE_DEPTH = 16,   /* MAXIMUM_VALUE_DEPTH of synchroscope/event.py */
    MAXIMUM_PAIRS = 64,         /* of an object that is a value */
    MAXIMUM_UPDATES = 1000,     /* of one event */
    MAXIMUM_NUMBER_BYTES = 64,  /* of a fraction that needs more than a multiplication */
    MAXIMUM_POSITION_DIGITS = 18, /* MAXIMUM_POSITION_DIGITS of validator/repeats.py */
    AHEAD = 4,                    /* records between the one that is read and one announced */
    LINES_AHEAD = 8,              /* of the processor's cache, at the start of a value */
    CACHE_LINE_BYTES = 64
};
static const uint64_t MAXIMUM_SEQUENCE = UINT64_C(1) << 53;

/* -- JSON: texts ----------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} Cursor;

/* A text as it stands between its quotes. */
typedef struct {
    const uint8_t *data;
    size_t size;
    bool is_escaped;
} Text;

static inline void skip_space(Cursor *cursor)
{
    while (cursor->at < cursor->end && (*cursor->at == ' ' || *cursor->at == '\n' ||
                                        *cursor->at == '\t' || *cursor->at == '\r')) {
        cursor->at++;
    }
}

/* Take one given byte, after white space. */
static inline bool takes(Cursor *cursor, uint8_t byte)
{
    skip_space(cursor);
    if (cursor->at < cursor->end && *cursor->at == byte) {
        cursor->at++;
        return true;
    }
    return false;
}

static inline bool continues(const uint8_t *at)
{
    return (*at & 0xc0) == 0x80;
}

/* Return the length of the character of several bytes at `at`; 0 where that is no sound UTF-8. */
static size_t character_size(const uint8_t *at, const uint8_t *end)
{
    const uint8_t first = at[0];
    const size_t left = (size_t)(end - at);
    if (first >= 0xc2 && first <= 0xdf) {
        return left >= 2 && continues(at + 1) ? 2 : 0;
    }
    if (first >= 0xe0 && first <= 0xef) {
        if (left < 3 || !continues(at + 1) || !continues(at + 2)) {
            return 0;
        }
        if ((first == 0xe0 && at[1] < 0xa0) || (first == 0xed && at[1] > 0x9f)) {
            return 0; /* Too long for what it says, or a surrogate. */
        }
        return 3;
    }
    if (first >= 0xf0 && first <= 0xf4) {
        if (left < 4 || !continues(at + 1) || !continues(at + 2) || !continues(at + 3)) {
            return 0;
        }
        if ((first == 0xf0 && at[1] < 0x90) || (first == 0xf4 && at[1] > 0x8f)) {
            return 0;
        }
        return 4;
    }
    return 0;
}

static int hexadecimal(uint8_t digit)
{
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    if (digit >= 'a' && digit <= 'f') {
        return digit - 'a' + 10;
    }
    if (digit >= 'A' && digit <= 'F') {
        return digit - 'A' + 10;
    }
    return -1;
}

/* Return the 16 bits that four digits say; -1 where they are none. */
static int32_t code_unit(const uint8_t *at, const uint8_t *end)
{
    int32_t unit = 0;
    if (end - at < 4) {
        return -1;
    }
    for (int place = 0; place < 4; place++) {
        const int digit = hexadecimal(at[place]);
        if (digit < 0) {
            return -1;
        }
        unit = unit * 16 + digit;
    }
    return unit;
}

/* Read what follows a backslash; return how many bytes that are, 0 where it is odd. */
static size_t escaped_character(const uint8_t *at, const uint8_t *end, uint32_t *character)
{
    if (at >= end) {
        return 0;
    }
    switch (*at) {
    case '"':
    case '\\':
    case '/':
        *character = *at;
        return 1;
    case 'b':
        *character = '\b';
        return 1;
    case 'f':
        *character = '\f';
        return 1;
    case 'n':
        *character = '\n';
        return 1;
    case 'r':
        *character = '\r';
        return 1;
    case 't':
        *character = '\t';
        return 1;
    case 'u':
        break;
    default:
        return 0;
    }
    const int32_t unit = code_unit(at + 1, end);
    if (unit < 0 || (unit >= 0xdc00 && unit <= 0xdfff)) {
        return 0;
    }
    if (unit < 0xd800 || unit > 0xdbff) {
        *character = (uint32_t)unit;
        return 5;
    }
    if (end - at < 11 || at[5] != '\\' || at[6] != 'u') {
        return 0;
    }
    const int32_t low = code_unit(at + 7, end);
    if (low < 0xdc00 || low > 0xdfff) {
        return 0;
    }
    *character = 0x10000 + (((uint32_t)unit - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
    return 11;
}

/* Return the first byte that is not plain: a quote, a backslash, a control character, or one of a
 * character of several bytes; `end` where there is none. */
static inline const uint8_t *after_plain(const uint8_t *at, const uint8_t *end)
{
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\');
    const __m128i space = _mm_set1_epi8(' ');
    for (; end - at >= 16; at += 16) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)at);
        /* Bytes are signed here: those from 0x80 on are below a space too. */
        const __m128i others =
            _mm_or_si128(_mm_cmplt_epi8(bytes, space),
                         _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, slash)));
        const unsigned found = (unsigned)_mm_movemask_epi8(others);
        if (found != 0) {
            return at + __builtin_ctz(found);
        }
    }
#endif
    while (at < end && *at >= 0x20 && *at < 0x80 && *at != '"' && *at != '\\') {
        at++;
    }
    return at;
}

/* Read a text; the cursor stands at its first quote. */
static Status read_text(Cursor *cursor, Text *text)
{
    skip_space(cursor);
    const uint8_t *at = cursor->at, *end = cursor->end;
    if (at >= end || *at != '"') {
        return ODD;
    }
    const uint8_t *start = ++at;
    text->is_escaped = false;
    for (;;) {
        at = after_plain(at, end);
        if (at >= end) {
            return ODD;
        }
        if (*at == '"') {
            break;
        }
        size_t taken;
        if (*at == '\\') {
            uint32_t character;
            taken = escaped_character(at + 1, end, &character);
            text->is_escaped = true;
            at++;
        } else {
            taken = *at < 0x80 ? 0 : character_size(at, end);
        }
        if (taken == 0) {
            return ODD;
        }
        at += taken;
    }
    text->data = start;
    text->size = (size_t)(at - start);
    cursor->at = at + 1;
    return DONE;
}

static size_t put_character(uint8_t *out, uint32_t character)
{
    if (character < 0x80) {
        out[0] = (uint8_t)character;
        return 1;
    }
    if (character < 0x800) {
        out[0] = (uint8_t)(0xc0 | character >> 6);
        out[1] = (uint8_t)(0x80 | (character & 0x3f));
        return 2;
    }
    if (character < 0x10000) {
        out[0] = (uint8_t)(0xe0 | character >> 12);
        out[1] = (uint8_t)(0x80 | (character >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (character & 0x3f));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | character >> 18);
    out[1] = (uint8_t)(0x80 | (character >> 12 & 0x3f));
    out[2] = (uint8_t)(0x80 | (character >> 6 & 0x3f));
    out[3] = (uint8_t)(0x80 | (character & 0x3f));
    return 4;
}

/* Write a text's bytes without escapes; `out` has room for its size: none is longer decoded. */
static size_t unescape(uint8_t *out, const Text *text)
{
    const uint8_t *at = text->data, *end = text->data + text->size;
    size_t size = 0;
    while (at < end) {
        if (*at == '\\') {
            uint32_t character = 0;
            at += 1 + escaped_character(at + 1, end, &character);
            size += put_character(out + size, character);
        } else {
            out[size++] = *at++;
        }
    }
    return size;
}

/* Write the canonical bytes of a text with `prefix` before it. */
static Status put_text(Bytes *out, const char *prefix, const Text *text)
{
    const size_t before = strlen(prefix);
    if (!text->is_escaped) {
        TRY(put_head(out, 0x60, before + text->size));
        TRY(put(out, prefix, before));
        return put(out, text->data, text->size);
    }
    uint8_t *plain = PyMem_Malloc(text->size);
    if (plain == NULL) {
        PyErr_NoMemory();
        return FAILED;
    }
    const size_t size = unescape(plain, text);
    Status status = put_head(out, 0x60, before + size);
    if (status == DONE) {
        status = put(out, prefix, before);
    }
    if (status == DONE) {
        status = put(out, plain, size);
    }
    PyMem_Free(plain);
    return status;
}

static inline bool says(const Text *text, const char *word, size_t size)
{
    return text->size == size && memcmp(text->data, word, size) == 0;
}
#define SAYS(text, word) says(text, word, sizeof word - 1)

/* -- JSON: numbers --------------------------------------------------------------------------- */

static inline bool is_digit(const Cursor *cursor)
{
    return cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9';
}

typedef struct {
    const uint8_t *start;
    uint64_t digits;  /* all of them, also those behind the point, as one number */
    int count;        /* of the digits, without leading zeros; over 19 `digits` is not right */
    int64_t exponent; /* of ten, for `digits` */
    bool is_negative;
    bool is_fraction;
} Number;

static inline void take_digit(Cursor *cursor, Number *number)
{
    const uint8_t digit = (uint8_t)(*cursor->at++ - '0');
    if (number->count > 0 || digit != 0) {
        number->count += number->count < 20;
    }
    if (number->count <= 19) {
        number->digits = number->digits * 10 + digit;
    }
}

static Status read_number(Cursor *cursor, Number *number)
{
    *number = (Number){.start = cursor->at};
    if (cursor->at < cursor->end && *cursor->at == '-') {
        number->is_negative = true;
        cursor->at++;
    }
    if (!is_digit(cursor)) {
        return ODD;
    }
    if (*cursor->at == '0') {
        cursor->at++;
        if (is_digit(cursor)) {
            return ODD;
        }
    } else {
        while (is_digit(cursor)) {
            take_digit(cursor, number);
        }
    }
    if (cursor->at < cursor->end && *cursor->at == '.') {
        number->is_fraction = true;
        cursor->at++;
        if (!is_digit(cursor)) {
            return ODD;
        }
        while (is_digit(cursor)) {
            take_digit(cursor, number);
            number->exponent--;
        }
    }
    if (cursor->at < cursor->end && (*cursor->at == 'e' || *cursor->at == 'E')) {
        number->is_fraction = true;
        cursor->at++;
        bool is_below = false;
        if (cursor->at < cursor->end && (*cursor->at == '-' || *cursor->at == '+')) {
            is_below = *cursor->at++ == '-';
        }
        if (!is_digit(cursor)) {
            return ODD;
        }
        int64_t exponent = 0;
        while (is_digit(cursor)) {
            exponent = exponent * 10 + (*cursor->at++ - '0');
            if (exponent > 9999) {
                return ODD;
            }
        }
        number->exponent += is_below ? -exponent : exponent;
    }
    return DONE;
}

static Status fraction_of(const Cursor *cursor, const Number *number, double *value)
{
#if FLT_EVAL_METHOD == 0
    /* Both are exact, so the one rounding is the right one (Clinger, 1990). */
    static const double POWERS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                    1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    if (number->count <= 19 && number->digits <= UINT64_C(1) << 53 && number->exponent >= -22 &&
        number->exponent <= 22) {
        const double digits = (double)number->digits;
        *value = number->exponent < 0 ? digits / POWERS[-number->exponent]
                                      : digits * POWERS[number->exponent];
        if (number->is_negative) {
            *value = -*value;
        }
        return DONE;
    }
#endif
    char copy[MAXIMUM_NUMBER_BYTES + 1];
    const size_t size = (size_t)(cursor->at - number->start);
    if (size > MAXIMUM_NUMBER_BYTES || number->exponent < -300) {
        return ODD;
    }
    memcpy(copy, number->start, size);
    copy[size] = '\0';
    char *end = NULL;
    *value = PyOS_string_to_double(copy, &end, NULL);
    if (*value == -1.0 && PyErr_Occurred()) {
        return FAILED;
    }
    return end == copy + size && isfinite(*value) ? DONE : ODD;
}

static Status put_json_number(Cursor *cursor, Bytes *out)
{
    Number number;
    TRY(read_number(cursor, &number));
    if (number.is_fraction) {
        double value;
        TRY(fraction_of(cursor, &number, &value));
        return put_fraction(out, value);
    }
    if (number.count > 19) {
        return ODD;
    }
    if (!number.is_negative) {
        return number.digits <= INT64_MAX ? put_head(out, 0x00, number.digits) : ODD;
    }
    if (number.digits == 0) {
        return put_byte(out, 0x00);
    }
    return number.digits <= UINT64_C(1) << 63 ? put_head(out, 0x20, number.digits - 1) : ODD;
}

/* -- JSON: anything -------------------------------------------------------------------------- */

static bool takes_word(Cursor *cursor, const char *word)
{
    const size_t size = strlen(word);
    if ((size_t)(cursor->end - cursor->at) < size || memcmp(cursor->at, word, size) != 0) {
        return false;
    }
    cursor->at += size;
    return true;
}

/* Read the next key of an object, whose brace was taken; `is_over`: there is none any more. */
static Status next_key(Cursor *cursor, bool *is_first, Text *key, bool *is_over)
{
    *is_over = takes(cursor, '}');
    if (*is_over) {
        return DONE;
    }
    if (!*is_first && !takes(cursor, ',')) {
        return ODD;
    }
    *is_first = false;
    TRY(read_text(cursor, key));
    return takes(cursor, ':') ? DONE : ODD;
}

/* A key that an object may have, as it mostly stands there, and what it is called here. */
enum { KNOWN_BYTES = 32 }; /* what is compared at once: `text` ends in zeros */
typedef struct {
    char text[KNOWN_BYTES];
    size_t size;
    unsigned found;
} Known;
#define KNOWN(key, found) {"\"" key "\":", sizeof("\"" key "\":") - 1, found}

/* Where an object is read: whether anything was yet, which of the known keys may be next, and which
 * there were. */
typedef struct {
    const Known *known;
    size_t count;
    size_t next;
    bool is_first;
    unsigned seen;
} Keys;
#define KEYS_OF(known) {known, sizeof(known) / sizeof(known)[0], 0, true, 0}

static inline bool stands_at(const uint8_t *at, const uint8_t *end, const Known *known)
{
#ifdef __SSE2__
    if (end - at >= KNOWN_BYTES) {
        const __m128i *one = (const __m128i *)(const void *)at;
        const __m128i *other = (const __m128i *)(const void *)known->text;
        const unsigned low = (unsigned)_mm_movemask_epi8(
            _mm_cmpeq_epi8(_mm_loadu_si128(one), _mm_loadu_si128(other)));
        const unsigned high = (unsigned)_mm_movemask_epi8(
            _mm_cmpeq_epi8(_mm_loadu_si128(one + 1), _mm_loadu_si128(other + 1)));
        return (~(low | high << 16) & ((1U << known->size) - 1)) == 0;
    }
#endif
    return (size_t)(end - at) >= known->size && memcmp(at, known->text, known->size) == 0;
}

/* Read a key as `next_key` does; `found`: which of the known ones it is, or 0. */
static Status searched_key(Cursor *cursor, Keys *keys, unsigned *found, bool *is_over)
{
    Text key;
    *found = 0;
    TRY(next_key(cursor, &keys->is_first, &key, is_over));
    if (*is_over) {
        return DONE;
    }
    if (key.is_escaped) {
        return ODD;
    }
    for (size_t place = 0; place < keys->count; place++) {
        const Known *known = &keys->known[place];
        if (key.size + 3 == known->size && memcmp(key.data, known->text + 1, key.size) == 0) {
            *found = known->found;
            keys->next = place + 1;
        }
    }
    return DONE;
}

/* Read the next key as `next_key` does; `found`: which of the known ones it is, or 0. One that says
 * something may come once. Mostly it stands there without white space, in the known order. */
static inline Status known_key(Cursor *cursor, Keys *keys, unsigned *found, bool *is_over)
{
    const bool is_led = keys->is_first || (cursor->at < cursor->end && *cursor->at == ',');
    const uint8_t *at = cursor->at + !keys->is_first;
    const Known *known = &keys->known[keys->next];
    if (is_led && keys->next < keys->count && stands_at(at, cursor->end, known)) {
        cursor->at = at + known->size;
        keys->is_first = false;
        keys->next++;
        *found = known->found;
        *is_over = false;
    } else {
        TRY(searched_key(cursor, keys, found, is_over));
    }
    const bool is_new = !(keys->seen & *found);
    keys->seen |= *found;
    return is_new ? DONE : ODD;
}

/* Go on to the next item of a list, whose bracket was taken. */
static Status next_item(Cursor *cursor, bool *is_first, bool *is_over)
{
    *is_over = takes(cursor, ']');
    if (*is_over) {
        return DONE;
    }
    if (!*is_first && !takes(cursor, ',')) {
        return ODD;
    }
    *is_first = false;
    return DONE;
}

static Status skip_value(Cursor *cursor, int depth)
{
    Text text;
    bool is_first = true, is_over;
    skip_space(cursor);
    if (cursor->at >= cursor->end) {
        return ODD;
    }
    switch (*cursor->at) {
    case '"':
        return read_text(cursor, &text);
    case 'n':
        return takes_word(cursor, "null") ? DONE : ODD;
    case 't':
        return takes_word(cursor, "true") ? DONE : ODD;
    case 'f':
        return takes_word(cursor, "false") ? DONE : ODD;
    case '{':
        if (depth >= MAXIMUM_SKIPPED_DEPTH) {
            return ODD;
        }
        cursor->at++;
        for (;;) {
            TRY(next_key(cursor, &is_first, &text, &is_over));
            if (is_over) {
                return DONE;
            }
            TRY(skip_value(cursor, depth + 1));
        }
    case '[':
        if (depth >= MAXIMUM_SKIPPED_DEPTH) {
            return ODD;
        }
        cursor->at++;
        for (;;) {
            TRY(next_item(cursor, &is_first, &is_over));
            if (is_over) {
                return DONE;
            }
            TRY(skip_value(cursor, depth + 1));
        }
    default: {
        Number number;
        TRY(read_number(cursor, &number));
        /* Whether one that is passed over may be larger than a number can be is for the rule. */
        const bool is_short = cursor->at - number.start <= MAXIMUM_NUMBER_BYTES;
        const bool is_sound = number.is_fraction ? is_short && number.exponent >= -200 &&
                                                       number.exponent <= 200
                                                 : number.count <= 19;
        return is_sound ? DONE : ODD;
    }
    }
}

static Status put_value(Cursor *cursor, Bytes *out, int depth);

static Status put_list(Cursor *cursor, Bytes *out, int depth)
{
    const size_t start = out->size;
    uint64_t count = 0;
    bool is_first = true, is_over;
    for (;; count++) {
        TRY(next_item(cursor, &is_first, &is_over));
        if (is_over) {
            return insert_head(out, start, 0x80, count);
        }
        TRY(put_value(cursor, out, depth + 1));
    }
}

static Status put_object(Cursor *cursor, Bytes *out, int depth)
{
    Pair pairs[MAXIMUM_PAIRS];
    size_t count = 0;
    const size_t start = out->size;
    bool is_first = true, is_over, is_sorted = true;
    for (;;) {
        Text key;
        TRY(next_key(cursor, &is_first, &key, &is_over));
        if (is_over) {
            break;
        }
        if (count == MAXIMUM_PAIRS) {
            return ODD;
        }
        Pair pair = {.start = out->size};
        TRY(put_text(out, "", &key));
        pair.key_size = out->size - pair.start;
        TRY(put_value(cursor, out, depth + 1));
        pair.size = out->size - pair.start;
        size_t place = count++;
        while (place > 0) {
            const int order = compare_keys(out->data, &pairs[place - 1], &pair);
            if (order == 0) {
                return ODD; /* The later one counts: so says the rule, and it shall do it. */
            }
            if (order < 0) {
                break;
            }
            pairs[place] = pairs[place - 1];
            place--;
            is_sorted = false;
        }
        pairs[place] = pair;
    }
    if (!is_sorted) {
        TRY(arrange(out, start, pairs, count));
    }
    return insert_head(out, start, 0xa0, count);
}

/* Write the canonical bytes of the next value. */
static Status put_value(Cursor *cursor, Bytes *out, int depth)
{
    Text text;
    skip_space(cursor);
    if (cursor->at >= cursor->end) {
        return ODD;
    }
    switch (*cursor->at) {
    case '"':
        TRY(read_text(cursor, &text));
        return put_text(out, "", &text);
    case 'n':
        return takes_word(cursor, "null") ? put_byte(out, 0xf6) : ODD;
    case 't':
        return takes_word(cursor, "true") ? put_byte(out, 0xf5) : ODD;
    case 'f':
        return takes_word(cursor, "false") ? put_byte(out, 0xf4) : ODD;
    case '[':
    case '{':
        if (depth >= MAXIMUM_VALUE_DEPTH) {
            return ODD;
        }
        return *cursor->at++ == '[' ? put_list(cursor, out, depth) : put_object(cursor, out, depth);
    default:
        return put_json_number(cursor, out);
    }
}

/* -- events ---------------------------------------------------------------------------------- */

/* A piece of `Reader.values`. */
typedef struct {
    size_t start;
    size_t size;
} Piece;

typedef struct {
    Piece name;
    Piece current;
    Piece previous;
    Piece previous_targets;
} Update;

typedef struct {
    Text event_id;
    Text context_type;
    Text user_id;
    Text session_id;
    bool has_user;
    bool has_session;
    uint64_t sequence;
    Piece targets;
    size_t updates;
} Event;

/* The distinct texts that were met, each with its number. */
typedef struct {
    uint64_t hash;
    size_t start;
    size_t size;
} Entry;

typedef struct {
    Bytes keys;
    Bytes entries; /* of `Entry`, by number */
    Bytes slots;   /* of uint32_t: number + 1, or 0; a power of two of them */
    uint32_t count;
    uint32_t last; /* the number that was found last, which is mostly the next one too */
} Index;

typedef struct {
    Bytes values; /* canonical bytes of the present event's values */
    Bytes updates; /* of `Update`, of the present event */
    Bytes text;   /* what is hashed */
    Bytes source; /* the last one as it stood there, and likewise the last list of targets */
    Bytes targets;
    Bytes targets_made; /* what was made of that */
    Index kinds;
    Index combinations;
    Bytes marks, applied0, applied1, hashes, numbers, positions; /* columns by record */
    Bytes places, lane0, lane1, rows, nulls;                     /* columns by update */
} Reader;

static Status grow_slots(Index *index)
{
    const size_t old = index->slots.size / sizeof(uint32_t), wanted = old == 0 ? 64 : 2 * old;
    index->slots.size = 0;
    TRY(reserve(&index->slots, wanted * sizeof(uint32_t)));
    index->slots.size = wanted * sizeof(uint32_t);
    uint32_t *slots = (uint32_t *)(void *)index->slots.data;
    memset(slots, 0, index->slots.size);
    const Entry *entries = (const Entry *)(const void *)index->entries.data;
    for (uint32_t number = 0; number < index->count; number++) {
        size_t slot = entries[number].hash & (wanted - 1);
        while (slots[slot] != 0) {
            slot = (slot + 1) & (wanted - 1);
        }
        slots[slot] = number + 1;
    }
    return DONE;
}

/* Find the number of a key, or give it the next one. */
static Status number_of(Index *index, const uint8_t *key, size_t size, uint32_t *number)
{
    const Entry *entries = (const Entry *)(const void *)index->entries.data;
    if (index->count > 0 && entries[index->last].size == size &&
        memcmp(index->keys.data + entries[index->last].start, key, size) == 0) {
        *number = index->last;
        return DONE;
    }
    if (2 * ((size_t)index->count + 1) > index->slots.size / sizeof(uint32_t)) {
        if (index->count > UINT32_MAX / 8) {
            return ODD;
        }
        TRY(grow_slots(index));
    }
    const uint64_t hash = XXH3_64bits(key, size);
    const size_t mask = index->slots.size / sizeof(uint32_t) - 1;
    uint32_t *slots = (uint32_t *)(void *)index->slots.data;
    size_t slot = hash & mask;
    for (; slots[slot] != 0; slot = (slot + 1) & mask) {
        const Entry *entry = &entries[slots[slot] - 1];
        if (entry->hash == hash && entry->size == size &&
            memcmp(index->keys.data + entry->start, key, size) == 0) {
            *number = index->last = slots[slot] - 1;
            return DONE;
        }
    }
    const Entry entry = {hash, index->keys.size, size};
    TRY(put(&index->keys, key, size));
    TRY(put(&index->entries, &entry, sizeof entry));
    *number = index->last = index->count++;
    slots[slot] = *number + 1;
    return DONE;
}

/* Take what stood there before, an object or a list, where it stands there again. */
static bool takes_again(Cursor *cursor, const Bytes *before)
{
    if (before->size == 0 || (size_t)(cursor->end - cursor->at) < before->size ||
        memcmp(cursor->at, before->data, before->size) != 0) {
        return false;
    }
    cursor->at += before->size;
    return true;
}

/* Pass over an object that is mostly the same in one event after the other. */
static Status skip_source(Cursor *cursor, Bytes *before)
{
    skip_space(cursor);
    if (takes_again(cursor, before)) {
        return DONE;
    }
    const uint8_t *start = cursor->at;
    TRY(skip_value(cursor, 0));
    before->size = 0;
    return *start == '{' ? put(before, start, (size_t)(cursor->at - start)) : DONE;
}

/* Write a list of texts, whose bracket was taken, in its canonical bytes. */
static Status read_names(Cursor *cursor, Bytes *out)
{
    const size_t start = out->size;
    uint64_t count = 0;
    bool is_first = true, is_over;
    for (;; count++) {
        Text name;
        TRY(next_item(cursor, &is_first, &is_over));
        if (is_over) {
            return insert_head(out, start, 0x80, count);
        }
        TRY(read_text(cursor, &name));
        TRY(put_text(out, "", &name));
    }
}

/* Write a list of texts, or null, in its canonical bytes. */
static Status read_targets(Cursor *cursor, Reader *reader, Piece *piece)
{
    Bytes *out = &reader->values;
    piece->start = out->size;
    skip_space(cursor);
    const uint8_t *start = cursor->at;
    if (takes_again(cursor, &reader->targets)) {
        TRY(put(out, reader->targets_made.data, reader->targets_made.size));
    } else if (takes_word(cursor, "null")) {
        TRY(put_byte(out, 0xf6));
    } else if (takes(cursor, '[')) {
        TRY(read_names(cursor, out));
        reader->targets.size = reader->targets_made.size = 0;
        TRY(put(&reader->targets_made, out->data + piece->start, out->size - piece->start));
        TRY(put(&reader->targets, start, (size_t)(cursor->at - start)));
    } else {
        return ODD;
    }
    piece->size = out->size - piece->start;
    return DONE;
}

static Status put_null(Bytes *out, Piece *piece)
{
    *piece = (Piece){out->size, 1};
    return put_byte(out, 0xf6);
}

static Status read_piece(Cursor *cursor, Bytes *values, Piece *piece)
{
    piece->start = values->size;
    TRY(put_value(cursor, values, 0));
    piece->size = values->size - piece->start;
    return DONE;
}

static Status read_update(Cursor *cursor, Reader *reader, Update *update)
{
    enum { CURRENT = 1, PREVIOUS = 2, TARGETS = 4 };
    static const Known KNOWN_KEYS[] = {
        KNOWN("current", CURRENT), KNOWN("confidence", 0), KNOWN("previous", PREVIOUS),
        KNOWN("previousTargets", TARGETS),
    };
    Keys keys = KEYS_OF(KNOWN_KEYS);
    unsigned found;
    bool is_over;
    if (!takes(cursor, '{')) {
        return ODD;
    }
    for (;;) {
        TRY(known_key(cursor, &keys, &found, &is_over));
        if (is_over) {
            break;
        }
        if (found == CURRENT) {
            TRY(read_piece(cursor, &reader->values, &update->current));
        } else if (found == PREVIOUS) {
            TRY(read_piece(cursor, &reader->values, &update->previous));
        } else if (found == TARGETS) {
            TRY(read_targets(cursor, reader, &update->previous_targets));
        } else {
            TRY(skip_value(cursor, 0));
        }
    }
    if (!(keys.seen & CURRENT)) {
        return ODD;
    }
    if (!(keys.seen & PREVIOUS)) {
        TRY(put_null(&reader->values, &update->previous));
    }
    if (!(keys.seen & TARGETS)) {
        TRY(put_null(&reader->values, &update->previous_targets));
    }
    return DONE;
}

static Status read_updates(Cursor *cursor, Reader *reader, Event *event)
{
    bool is_first = true, is_over;
    if (!takes(cursor, '{')) {
        return ODD;
    }
    for (;;) {
        Text name;
        Update update;
        TRY(next_key(cursor, &is_first, &name, &is_over));
        if (is_over) {
            return DONE;
        }
        if (event->updates == MAXIMUM_UPDATES) {
            return ODD;
        }
        update.name.start = reader->values.size;
        TRY(put_text(&reader->values, "", &name));
        update.name.size = reader->values.size - update.name.start;
        const uint8_t *values = reader->values.data;
        const Update *others = (const Update *)(const void *)reader->updates.data;
        for (size_t place = 0; place < event->updates; place++) {
            const Piece *other = &others[place].name;
            if (other->size == update.name.size &&
                memcmp(values + other->start, values + update.name.start, other->size) == 0) {
                return ODD; /* Said twice: what that means is for the rule. */
            }
        }
        TRY(read_update(cursor, reader, &update));
        TRY(put(&reader->updates, &update, sizeof update));
        event->updates++;
    }
}

/* Read a text or null. */
static Status read_optional(Cursor *cursor, Text *text, bool *has_text)
{
    skip_space(cursor);
    *has_text = !takes_word(cursor, "null");
    return *has_text ? read_text(cursor, text) : DONE;
}

static Status read_delta(Cursor *cursor, Reader *reader, Event *event)
{
    enum { UPDATES = 1, USER = 2, SESSION = 4 };
    static const Known KNOWN_KEYS[] = {
        KNOWN("userId", USER), KNOWN("updates", UPDATES), KNOWN("sessionId", SESSION),
    };
    Keys keys = KEYS_OF(KNOWN_KEYS);
    unsigned found;
    bool is_over;
    if (!takes(cursor, '{')) {
        return ODD;
    }
    for (;;) {
        TRY(known_key(cursor, &keys, &found, &is_over));
        if (is_over) {
            break;
        }
        if (found == UPDATES) {
            TRY(read_updates(cursor, reader, event));
        } else if (found == USER) {
            TRY(read_optional(cursor, &event->user_id, &event->has_user));
        } else if (found == SESSION) {
            TRY(read_optional(cursor, &event->session_id, &event->has_session));
        } else {
            TRY(skip_value(cursor, 0));
        }
    }
    return (keys.seen & UPDATES) && (event->has_user || event->has_session) ? DONE : ODD;
}

static Status read_priority(Cursor *cursor)
{
    Text priority;
    TRY(read_text(cursor, &priority));
    return SAYS(&priority, "normal") || SAYS(&priority, "high") || SAYS(&priority, "low") ||
                   SAYS(&priority, "critical")
               ? DONE
               : ODD;
}

static Status read_rules(Cursor *cursor, Reader *reader, Event *event)
{
    enum { TARGETS = 1, PRIORITY = 2 };
    static const Known KNOWN_KEYS[] = {
        KNOWN("targetModels", TARGETS), KNOWN("priority", PRIORITY), KNOWN("ttl", 0),
    };
    Keys keys = KEYS_OF(KNOWN_KEYS);
    unsigned found;
    bool is_over;
    if (!takes(cursor, '{')) {
        return ODD;
    }
    for (;;) {
        TRY(known_key(cursor, &keys, &found, &is_over));
        if (is_over) {
            return DONE;
        }
        if (found == TARGETS) {
            TRY(read_targets(cursor, reader, &event->targets));
        } else if (found == PRIORITY) {
            TRY(read_priority(cursor));
        } else {
            TRY(skip_value(cursor, 0));
        }
    }
}

static Status read_sequence(Cursor *cursor, Event *event)
{
    Number number;
    skip_space(cursor);
    TRY(read_number(cursor, &number));
    event->sequence = number.digits;
    const bool is_sound = !number.is_fraction && !number.is_negative && number.count <= 19 &&
                          number.digits >= 1 && number.digits <= MAXIMUM_SEQUENCE;
    return is_sound ? DONE : ODD;
}

static Status read_event(Cursor *cursor, Reader *reader, Event *event)
{
    enum { ID = 1, DELTA = 2, RULES = 4, KIND = 8, SEQUENCE = 16, SOURCE = 32 };
    static const Known KNOWN_KEYS[] = {
        KNOWN("eventId", ID),           KNOWN("timestamp", 0),
        KNOWN("eventType", 0),          KNOWN("source", SOURCE),
        KNOWN("contextType", KIND),     KNOWN("contextDelta", DELTA),
        KNOWN("propagationRules", RULES), KNOWN("correlationId", 0),
        KNOWN("sequence", SEQUENCE),
    };
    Keys keys = KEYS_OF(KNOWN_KEYS);
    unsigned found;
    bool is_over;
    if (!takes(cursor, '{')) {
        return ODD;
    }
    for (;;) {
        TRY(known_key(cursor, &keys, &found, &is_over));
        if (is_over) {
            break;
        }
        switch (found) {
        case ID:
            TRY(read_text(cursor, &event->event_id));
            break;
        case DELTA:
            TRY(read_delta(cursor, reader, event));
            break;
        case RULES:
            TRY(read_rules(cursor, reader, event));
            break;
        case KIND:
            TRY(read_text(cursor, &event->context_type));
            break;
        case SEQUENCE:
            TRY(read_sequence(cursor, event));
            break;
        case SOURCE:
            TRY(skip_source(cursor, &reader->source));
            break;
        default:
            TRY(skip_value(cursor, 0));
        }
    }
    skip_space(cursor);
    const unsigned needed = ID | DELTA | SEQUENCE;
    return cursor->at == cursor->end && (keys.seen & needed) == needed ? DONE : ODD;
}

/* -- columns --------------------------------------------------------------------------------- */

static inline Status put_piece(Bytes *out, const Bytes *values, Piece piece)
{
    return put(out, values->data + piece.start, piece.size);
}

/* Write the lanes of [offset, event ID, prior sequence], and the hash of the event ID. */
static Status put_applied(Reader *reader, const Event *event, uint64_t offset)
{
    Bytes *text = &reader->text;
    text->size = 0;
    TRY(put_byte(text, 0x83));
    TRY(put_head(text, 0x00, offset));
    const size_t start = text->size;
    TRY(put_text(text, "", &event->event_id));
    const uint8_t size = text->data[start] & 0x1f;
    const size_t head = size < 24 ? 1 : 1 + ((size_t)1 << (size - 24));
    TRY(put_number(&reader->marks,
                   XXH3_64bits(text->data + start + head, text->size - start - head)));
    TRY(put_head(text, 0x00, event->sequence - 1));
    const XXH128_hash_t lanes = XXH3_128bits(text->data, text->size);
    TRY(put_number(&reader->applied0, lanes.high64));
    return put_number(&reader->applied1, lanes.low64);
}

/* Write one side of an update: `text` ends in the fact without its value. */
static Status put_side(Reader *reader, Piece value, bool is_leaving)
{
    Bytes *text = &reader->text;
    const size_t before = text->size;
    const bool is_null = reader->values.data[value.start] == 0xf6;
    XXH128_hash_t lanes = {0, 0};
    if (!is_null) {
        TRY(put_piece(text, &reader->values, value));
        lanes = XXH3_128bits(text->data, text->size);
        text->size = before;
    }
    TRY(put_number(&reader->lane0, is_leaving ? 0 - lanes.high64 : lanes.high64));
    TRY(put_number(&reader->lane1, is_leaving ? 0 - lanes.low64 : lanes.low64));
    return put_byte(&reader->nulls, is_null);
}

static Status put_updates(Reader *reader, const Event *event, uint64_t place)
{
    static const Text GENERAL = {(const uint8_t *)"general", 7, false};
    Bytes *text = &reader->text;
    const Bytes *values = &reader->values;
    uint32_t number;
    text->size = 0;
    TRY(put_byte(text, 0x82));
    TRY(put_text(text, "", event->context_type.data == NULL ? &GENERAL : &event->context_type));
    const size_t kind_size = text->size - 1;
    TRY(number_of(&reader->kinds, text->data + 1, kind_size, &number));
    TRY(put_number(&reader->numbers, number));
    TRY(event->has_user ? put_text(text, "user:", &event->user_id)
                        : put_text(text, "session:", &event->session_id));
    TRY(put_number(&reader->hashes, XXH3_64bits(text->data, text->size)));
    text->data[0] = 0x84;
    const size_t head = text->size;
    const Update *updates = (const Update *)(const void *)reader->updates.data;
    for (size_t turn = 0; turn < event->updates; turn++) {
        const Update *update = &updates[turn];
        text->size = head;
        /* What the combination is told by stands behind the fact's head for a moment. */
        TRY(reserve(text, kind_size));
        memcpy(text->data + head, text->data + 1, kind_size);
        text->size += kind_size;
        TRY(put_piece(text, values, update->name));
        TRY(put_piece(text, values, event->targets));
        TRY(put_piece(text, values, update->previous_targets));
        TRY(number_of(&reader->combinations, text->data + head, text->size - head, &number));
        text->size = head;
        TRY(put_piece(text, values, update->name));
        TRY(put_number(&reader->places, place));
        TRY(put_number(&reader->rows, number));
        TRY(put_side(reader, update->current, false));
        TRY(put_side(reader, update->previous, true));
    }
    return DONE;
}

static Status take_value(Reader *reader, PyObject *value, uint64_t offset, uint64_t place)
{
    Event event = {0};
    if (!PyBytes_CheckExact(value)) {
        return ODD;
    }
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(value);
    Cursor cursor = {data, data + PyBytes_GET_SIZE(value)};
    reader->values.size = reader->updates.size = 0;
    TRY(put_null(&reader->values, &event.targets));
    TRY(read_event(&cursor, reader, &event));
    TRY(put_applied(reader, &event, offset));
    return put_updates(reader, &event, place);
}

/* -- records --------------------------------------------------------------------------------- */

typedef struct {
    PyObject *store_position;
} Names;

/* Columns of records: offsets, and lists that are as long; and which of them are meant. */
typedef struct {
    const int64_t *offsets;
    PyObject *values;
    PyObject *headers;
    Py_ssize_t start;
    Py_ssize_t stop;
} Records;

/* Have the processor fetch what is read soon: records that came long ago have left its cache. */
static void announce(PyObject *values, Py_ssize_t place)
{
    if (place + AHEAD < PyList_GET_SIZE(values)) {
        const char *value = (const char *)PyList_GET_ITEM(values, place + AHEAD);
        for (size_t line = 0; line < LINES_AHEAD; line++) {
            __builtin_prefetch(value + line * CACHE_LINE_BYTES);
        }
    }
}

/* Read a record's store position, as `store_position` of validator/repeats.py; -1: none. */
static Status read_position(const Names *names, PyObject *headers, int64_t *position)
{
    *position = -1;
    for (Py_ssize_t place = 0; place < PyTuple_GET_SIZE(headers); place++) {
        PyObject *header = PyTuple_GET_ITEM(headers, place);
        if (!PyTuple_CheckExact(header) || PyTuple_GET_SIZE(header) != 2) {
            return ODD;
        }
        PyObject *name = PyTuple_GET_ITEM(header, 0), *stored = PyTuple_GET_ITEM(header, 1);
        if (!PyUnicode_CheckExact(name) || !PyBytes_CheckExact(stored)) {
            return ODD;
        }
        if (name != names->store_position) {
            const int order = PyUnicode_Compare(name, names->store_position);
            if (order == -1 && PyErr_Occurred()) {
                return FAILED;
            }
            if (order != 0) {
                continue;
            }
        }
        const Py_ssize_t size = PyBytes_GET_SIZE(stored);
        const char *digits = PyBytes_AS_STRING(stored);
        int64_t number = 0;
        if (size < 1 || size > MAXIMUM_POSITION_DIGITS) {
            return DONE;
        }
        for (Py_ssize_t turn = 0; turn < size; turn++) {
            if (digits[turn] < '0' || digits[turn] > '9') {
                return DONE;
            }
            number = number * 10 + (digits[turn] - '0');
        }
        *position = number;
        return DONE;
    }
    return DONE;
}

static Status take_headers(
    Reader *reader, const Names *names, PyObject *headers, int64_t *highest, bool *has_any)
{
    int64_t position;
    if (!PyTuple_CheckExact(headers)) {
        return ODD;
    }
    *has_any = *has_any || PyTuple_GET_SIZE(headers) > 0;
    TRY(read_position(names, headers, &position));
    if (position >= 0) {
        if (position <= *highest) {
            return ODD; /* Published before. */
        }
        *highest = position;
    }
    return put_number(&reader->positions, (uint64_t)*highest);
}

/* The lists are held meanwhile, and nothing that is called here could change them. */
static Status take_record(
    Reader *reader,
    const Names *names,
    const Records *records,
    Py_ssize_t place,
    int64_t *highest,
    bool *has_any)
{
    const int64_t offset = records->offsets[place];
    if (offset < 0) {
        return ODD;
    }
    TRY(take_headers(reader, names, PyList_GET_ITEM(records->headers, place), highest, has_any));
    PyObject *value = PyList_GET_ITEM(records->values, place);
    return take_value(reader, value, (uint64_t)offset, (uint64_t)(place - records->start));
}

/* -- what Python is given -------------------------------------------------------------------- */

/* Make the object of a key's next part: a text, a list of texts or null, in canonical bytes. */
static PyObject *next_part(const uint8_t **at)
{
    const uint8_t first = *(*at)++;
    if (first == 0xf6) {
        Py_RETURN_NONE;
    }
    uint64_t argument = first & 0x1f;
    if (argument >= 24) {
        const size_t width = (size_t)1 << (argument - 24);
        argument = 0;
        for (size_t place = 0; place < width; place++) {
            argument = argument << 8 | *(*at)++;
        }
    }
    if ((first & 0xe0) == 0x60) {
        PyObject *text = PyUnicode_DecodeUTF8((const char *)*at, (Py_ssize_t)argument, NULL);
        *at += argument;
        return text;
    }
    PyObject *list = PyTuple_New((Py_ssize_t)argument);
    for (uint64_t place = 0; list != NULL && place < argument; place++) {
        PyObject *item = next_part(at);
        if (item == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyTuple_SET_ITEM(list, (Py_ssize_t)place, item);
    }
    return list;
}

/* Make a list of the index's keys: of their parts, or of tuples where they have several. */
static PyObject *keys_of(const Index *index, Py_ssize_t parts)
{
    PyObject *keys = PyList_New(index->count);
    const Entry *entries = (const Entry *)(const void *)index->entries.data;
    for (uint32_t number = 0; keys != NULL && number < index->count; number++) {
        const uint8_t *at = index->keys.data + entries[number].start;
        PyObject *key = parts == 1 ? next_part(&at) : PyTuple_New(parts);
        for (Py_ssize_t place = 0; parts > 1 && key != NULL && place < parts; place++) {
            PyObject *part = next_part(&at);
            if (part == NULL) {
                Py_CLEAR(key);
            } else {
                PyTuple_SET_ITEM(key, place, part);
            }
        }
        if (key == NULL) {
            Py_CLEAR(keys);
        } else {
            PyList_SET_ITEM(keys, number, key);
        }
    }
    return keys;
}

static PyObject *result_of(Reader *reader, bool has_any)
{
    if (!has_any) {
        reader->positions.size = 0;
    }
    const Bytes *columns[] = {
        &reader->marks, &reader->applied0, &reader->applied1, &reader->hashes, &reader->numbers,
        &reader->positions, &reader->places, &reader->lane0, &reader->lane1, &reader->rows,
        &reader->nulls,
    };
    const Py_ssize_t count = sizeof columns / sizeof columns[0];
    PyObject *result = PyTuple_New(count + 2);
    if (result == NULL) {
        return NULL;
    }
    for (Py_ssize_t place = 0; place < count + 2; place++) {
        PyObject *item = place < count    ? as_object(columns[place])
                         : place == count ? keys_of(&reader->kinds, 1)
                                          : keys_of(&reader->combinations, 4);
        if (item == NULL) {
            Py_DECREF(result);
            return NULL;
        }
        PyTuple_SET_ITEM(result, place, item);
    }
    return result;
}

static void release_index(Index *index)
{
    release(&index->keys);
    release(&index->entries);
    release(&index->slots);
}

static void release_reader(Reader *reader)
{
    release_index(&reader->kinds);
    release_index(&reader->combinations);
    Bytes *all[] = {
        &reader->values, &reader->updates, &reader->text, &reader->source, &reader->targets,
        &reader->targets_made, &reader->marks, &reader->applied0, &reader->applied1,
        &reader->hashes, &reader->numbers, &reader->positions, &reader->places, &reader->lane0,
        &reader->lane1, &reader->rows, &reader->nulls,
    };
    for (size_t place = 0; place < sizeof all / sizeof all[0]; place++) {
        release(all[place]);
    }
}

static Status take_records(
    Reader *reader, const Names *names, const Records *records, int64_t highest, bool *has_any)
{
    Bytes *by_record[] = {
        &reader->marks, &reader->applied0, &reader->applied1, &reader->hashes, &reader->numbers,
        &reader->positions, &reader->places, &reader->rows,
    };
    const size_t count = records->stop > records->start
                             ? (size_t)(records->stop - records->start)
                             : 0;
    for (size_t column = 0; column < sizeof by_record / sizeof by_record[0]; column++) {
        TRY(reserve(by_record[column], count * sizeof(uint64_t)));
    }
    TRY(reserve(&reader->lane0, 2 * count * sizeof(uint64_t)));
    TRY(reserve(&reader->lane1, 2 * count * sizeof(uint64_t)));
    for (Py_ssize_t place = records->start; place < records->stop; place++) {
        announce(records->values, place);
        TRY(take_record(reader, names, records, place, &highest, has_any));
    }
    return DONE;
}

PyDoc_STRVAR(
    read_doc,
    "read(offsets, values, headers, start, stop, published, /)\n--\n\n"
    "Return the columns of the records from place `start` up to `stop` and what their numbers stand "
    "for; None: by the rule. `offsets` holds integers of 64 bits.");

static PyObject *read_records(PyObject *module, PyObject *arguments)
{
    Py_buffer offsets;
    Records records;
    long long published;
    if (!PyArg_ParseTuple(arguments, "y*O!O!nnL:read", &offsets, &PyList_Type, &records.values,
                          &PyList_Type, &records.headers, &records.start, &records.stop,
                          &published)) {
        return NULL;
    }
    PyObject *result = NULL;
    const Py_ssize_t count = PyList_GET_SIZE(records.values);
    if (PyList_GET_SIZE(records.headers) != count ||
        offsets.len != count * (Py_ssize_t)sizeof(int64_t)) {
        PyErr_SetString(PyExc_ValueError, "columns of different lengths");
    } else if (records.start < 0 || records.stop > count) {
        PyErr_SetString(PyExc_IndexError, "no such records");
    } else {
        Reader reader;
        memset(&reader, 0, sizeof reader);
        bool has_any = false;
        const Names *names = PyModule_GetState(module);
        records.offsets = offsets.buf;
        const Status status = take_records(&reader, names, &records, published, &has_any);
        if (status == DONE) {
            result = result_of(&reader, has_any);
        } else if (status == ODD) {
            result = Py_NewRef(Py_None);
        }
        release_reader(&reader);
    }
    PyBuffer_Release(&offsets);
    return result;
}

/* -- the module ------------------------------------------------------------------------------ */

static int begin(PyObject *module)
{
    Names *names = PyModule_GetState(module);
    names->store_position = PyUnicode_InternFromString("store-position");
    return names->store_position != NULL ? 0 : -1;
}

static int clear(PyObject *module)
{
    Names *names = PyModule_GetState(module);
    Py_CLEAR(names->store_position);
    return 0;
}

static PyMethodDef METHODS[] = {
    {"read", read_records, METH_VARARGS, read_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {
    {Py_mod_exec, begin},
    {0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "validator._columns",
    .m_doc = "Reads a batch of events into columns.",
    .m_size = sizeof(Names),
    .m_methods = METHODS,
    .m_slots = SLOTS,
    .m_clear = clear,
};

PyMODINIT_FUNC PyInit__columns(void)
{
    return PyModuleDef_Init(&MODULE);
}
