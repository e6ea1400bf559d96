/* Reads a number, date or time out of its text; gives 0 for what is not plainly one. */

#ifndef HEADRACE_VALUES_H
#define HEADRACE_VALUES_H

#include "cells.h"

struct number { uint64_t digits; int32_t whole, places, exponent; int negative, zero; };

/* A number of at most 19 digits without needless zeros in front; what is longer is left to others. */
static inline int written(const uint8_t *p, int64_t n, struct number *out)
{
    const uint8_t *end = p + n, *first;
    uint64_t sum = 0;
    out->negative = p < end && *p == '-';
    p += out->negative;
    first = p;
    while (p < end && digit(*p))
        sum = sum * 10 + (uint8_t)(*p++ - '0');
    out->whole = (int32_t)(p - first);
    out->zero = out->whole == 1 && *first == '0';
    if (UNLIKELY(out->whole == 0 || (*first == '0' && out->whole > 1)))
        return 0;
    out->places = out->exponent = 0;
    if (p < end && *p == '.') {
        first = ++p;
        while (p < end && digit(*p))
            sum = sum * 10 + (uint8_t)(*p++ - '0');
        out->places = (int32_t)(p - first);
        if (UNLIKELY(out->places == 0))
            return 0;
    }
    if (UNLIKELY(out->whole - out->zero + out->places > 19))
        return 0;
    if (UNLIKELY(p < end)) {
        if ((*p++ | 32) != 'e' || p == end)
            return 0;
        int minus = *p == '-';
        p += minus || *p == '+';
        if (p == end || end - p > 3)
            return 0;
        int32_t power = 0;
        while (p < end) {
            if (!digit(*p))
                return 0;
            power = power * 10 + (*p++ - '0');
        }
        out->exponent = minus ? -power : power;
        if (out->exponent == 0)
            out->exponent = 1000; /* it is written with one: no integer and no decimal */
    }
    out->digits = sum;
    return 1;
}

/* The nearest double, or 0 where that takes more than a division of 128 bits. */
static inline int nearest(const struct number *w, double *out)
{
    static const double TENS[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    int32_t power = (w->exponent == 1000 ? 0 : w->exponent) - w->places;
    double value;
    if (w->digits == 0) {
        value = 0;
    } else if (w->digits >> 53 == 0 && power >= -22 && power <= 22) {
        value = power < 0 ? (double)w->digits / TENS[-power] : (double)w->digits * TENS[power];
    } else if (power == 0) {
        value = (double)w->digits;
    } else if (power < 0 && power >= -27) {
        uint64_t divisor = 1;
        for (int32_t i = 0; i < -power; i++)
            divisor *= 5; /* the twos of the ten go into the exponent */
        int up = __builtin_clzll(w->digits), wide = __builtin_clzll(divisor);
        uint64_t top = w->digits << up, low = divisor << wide;
        int half = top >= low; /* keeps the quotient within 64 bits */
        unsigned __int128 whole = (unsigned __int128)top << (64 - half);
        uint64_t quotient = (uint64_t)(whole / low), rest = (uint64_t)(whole % low);
        /* quotient has its top bit set: value = quotient * 2^(wide - up - 64 + half + power) */
        uint64_t mantissa = quotient >> 11, below = quotient & 2047;
        if (below > 1024 || (below == 1024 && (rest || (mantissa & 1))))
            mantissa++; /* 2^53 carries into the exponent by itself */
        int32_t exponent = wide - up - 64 + half + power + 11 + 52;
        uint64_t bits = ((uint64_t)(exponent + 1023) << 52) + (mantissa - ((uint64_t)1 << 52));
        memcpy(&value, &bits, 8);
    } else {
        return 0;
    }
    *out = w->negative ? -value : value;
    return 1;
}

/* value = digits times ten to the missing places, for any number of digits up to the precision */
static inline int decimal(const uint8_t *p, int64_t n, int32_t precision, int32_t scale,
                          unsigned __int128 *out)
{
    const uint8_t *end = p + n, *first;
    int negative = p < end && *p == '-';
    p += negative;
    first = p;
    while (p < end && digit(*p))
        p++;
    int64_t whole = p - first, places = 0;
    if (UNLIKELY(whole == 0 || (*first == '0' && whole > 1)))
        return 0;
    const uint8_t *point = p;
    if (p < end && *p == '.') {
        p++;
        while (p < end && digit(*p))
            p++;
        places = p - point - 1;
        if (UNLIKELY(places == 0))
            return 0;
    }
    if (UNLIKELY(p != end || places > scale))
        return 0;
    if (UNLIKELY(whole > precision - scale))
        return 0;
    unsigned __int128 sum = 0;
    if (whole + places <= 19) {
        uint64_t small = 0;
        for (p = first; p < point; p++)
            small = small * 10 + (uint8_t)(*p - '0');
        for (p = point + 1; p < end; p++)
            small = small * 10 + (uint8_t)(*p - '0');
        sum = small;
    } else {
        for (p = first; p < point; p++)
            sum = sum * 10 + (uint8_t)(*p - '0');
        for (p = point + 1; p < end; p++)
            sum = sum * 10 + (uint8_t)(*p - '0');
    }
    for (int64_t left = scale - places; left > 0; left -= 19)
        sum *= POWERS[left < 19 ? left : 19];
    *out = negative ? -sum : sum;
    return 1;
}

static inline int two(const uint8_t *p) { return digit(p[0]) && digit(p[1]) ? (p[0] - '0') * 10 + p[1] - '0' : 99; }

static inline int day(const uint8_t *p, int64_t *out)
{
    static const uint8_t DAYS[13] = {0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int century = two(p), rest = two(p + 2), month = two(p + 5), dom = two(p + 8);
    int64_t year = century * 100 + rest;
    if (UNLIKELY(century == 99 && !(p[0] == '9' && p[1] == '9')))
        return 0;
    if (UNLIKELY(rest == 99 && !(p[2] == '9' && p[3] == '9')))
        return 0;
    if (UNLIKELY(p[4] != '-' || p[7] != '-' || year < 1 || month < 1 || month > 12 || dom < 1 || dom > DAYS[month]))
        return 0;
    if (UNLIKELY(month == 2 && dom == 29 && (year % 4 || (year % 100 == 0 && year % 400))))
        return 0;
    int64_t y = year - (month <= 2), era = y / 400, yoe = y - era * 400;
    int64_t doy = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + dom - 1;
    *out = era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
    return 1;
}

/* HH:MM, HH:MM:SS or with up to six digits more; how many bytes it took, 0 if it is none */
static inline int64_t clock_time(const uint8_t *p, int64_t n, int64_t *out)
{
    if (UNLIKELY(n < 5 || p[2] != ':'))
        return 0;
    int hour = two(p), minute = two(p + 3), second = 0;
    int64_t took = 5, micros = 0;
    if (n >= 8 && p[5] == ':') {
        second = two(p + 6);
        took = 8;
        if (n > 9 && p[8] == '.' && digit(p[9])) {
            int64_t places = 0;
            for (took = 9; took < n && digit(p[took]); took++, places++)
                micros = places < 7 ? micros * 10 + (p[took] - '0') : micros;
            if (places > 6)
                return 0;
            micros *= (int64_t)POWERS[6 - places];
        }
    }
    if (UNLIKELY(hour > 23 || minute > 59 || second > 59))
        return 0;
    *out = ((int64_t)hour * 3600 + minute * 60 + second) * 1000000 + micros;
    return took;
}

static inline int timestamp(const uint8_t *p, int64_t n, int zone, int64_t *out)
{
    int64_t days, micros;
    if (UNLIKELY(n < 16 || !day(p, &days) || (p[10] != ' ' && p[10] != 'T')))
        return 0;
    int64_t took = clock_time(p + 11, n - 11, &micros), shift = 0;
    if (UNLIKELY(!took))
        return 0;
    p += 11 + took;
    n -= 11 + took;
    if (zone) {
        if (n == 1 && *p == 'Z') {
            n = 0;
        } else if (n >= 3 && (*p == '+' || *p == '-')) {
            int hours = two(p + 1), minutes = n == 3 ? 0 : n == 5 ? two(p + 3) : n == 6 && p[3] == ':' ? two(p + 4) : 99;
            if (hours > 23 || minutes > 59)
                return 0;
            shift = (*p == '-' ? 1 : -1) * ((int64_t)hours * 3600 + minutes * 60) * 1000000;
            n = 0;
        } else {
            return 0;
        }
    }
    *out = days * 86400000000 + micros + shift;
    return n == 0 && *out >= -719162 * 86400000000;
}

static inline int boolean(const uint8_t *p, int64_t n)
{
    static const char *const WORDS[6] = {"f", "t", "no", "yes", "false", "true"};
    static const int64_t SIZES[6] = {1, 1, 2, 3, 5, 4};
    for (int w = 0; w < 6; w++) {
        if (SIZES[w] != n)
            continue;
        int64_t i = 0;
        while (i < n && (p[i] | 32) == (uint8_t)WORDS[w][i])
            i++;
        if (i == n)
            return w & 1;
    }
    return -1;
}

#endif
