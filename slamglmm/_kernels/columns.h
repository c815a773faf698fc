/* A matrix of markers, stored column by column in one of five ways. */
#ifndef SLAMGLMM_COLUMNS_H
#define SLAMGLMM_COLUMNS_H

#include <stddef.h>
#include <stdint.h>

enum { COLUMNS_INT8, COLUMNS_BED, COLUMNS_FLOAT32, COLUMNS_FLOAT64, COLUMNS_CSC };

typedef struct {
    int kind;
    ptrdiff_t n, m;
    ptrdiff_t stride;       /* bytes from one column to the next */
    const char *data;       /* values; .bed: the packed bytes after the three magic ones */
    const double *table;     /* .bed: m x 4, value of each code, the missing one being the column's mean */
    const int64_t *starts;  /* csc: start of each column; int8: start of its missing rows */
    const int32_t *rows;    /* csc: row of each value; int8: missing rows */
    const double *shift;    /* int8: imputed mean minus the code that stands for missing */
} columns_t;

#endif
