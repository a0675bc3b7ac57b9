/* Decodes a region of a JPEG to RGB, and no more of it than that needs.

   Rows above it pass through the entropy decoder alone, those below are not read, and columns beside it are not
   transformed. The settings are those of FFCV's imdecode (fast transform, smooth upsampling), and so are the pixels. */

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

#ifndef LIBJPEG_TURBO_VERSION
#error "decoding of regions is libjpeg-turbo's alone"
#endif

struct errors {
    struct jpeg_error_mgr base;
    jmp_buf back;
};

static void leave(j_common_ptr decoder) /* libjpeg's own ends the process */
{
    longjmp(((struct errors *)decoder->err)->back, 1);
}

static void be_silent(j_common_ptr decoder)
{
    (void)decoder;
}

/* Smoothed chroma of a column depends on its neighbours, and libjpeg-turbo does not smooth parts of one or two samples
   of chroma: as many more columns are decoded on each side. */
#define MARGIN 8

/* height, width: of the image; those in the file must be the same. The region lies within, and has a pixel at least.
   image: memory of the whole image, uint8 (height, width, 3), of which the region is written, and some columns beside
   it. Returns 0, or 1 where the file draws an error or a warning. */
int fastgen_jpeg_region(const uint8_t *file, uint64_t size, uint32_t height, uint32_t width, uint32_t top,
                        uint32_t left, uint32_t rows, uint32_t columns, uint8_t *image)
{
    struct jpeg_decompress_struct decoder = {0};
    struct errors errors;

    decoder.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = leave;
    errors.base.output_message = be_silent;
    if (setjmp(errors.back)) {
        jpeg_destroy_decompress(&decoder);
        return 1;
    }
    jpeg_create_decompress(&decoder);
    jpeg_mem_src(&decoder, file, size);
    jpeg_read_header(&decoder, TRUE);
    if (decoder.image_height != height || decoder.image_width != width)
        leave((j_common_ptr)&decoder);
    decoder.out_color_space = JCS_RGB;
    decoder.dct_method = JDCT_IFAST;
    jpeg_start_decompress(&decoder);

    uint32_t margin = decoder.max_h_samp_factor > 1 ? MARGIN : 0, end = left + columns + margin;
    JDIMENSION start = left > margin ? left - margin : 0, across = (end < width ? end : width) - start;
    if (across < width)
        jpeg_crop_scanline(&decoder, &start, &across); /* moves the start to the left, to whole blocks */
    if (top)
        jpeg_skip_scanlines(&decoder, top);
    while (decoder.output_scanline < top + rows) {
        JSAMPROW row = image + ((uint64_t)decoder.output_scanline * width + start) * 3;
        jpeg_read_scanlines(&decoder, &row, 1);
    }
    if (decoder.output_scanline == height)
        jpeg_finish_decompress(&decoder); /* complains of a file that ends too early or too late */
    jpeg_destroy_decompress(&decoder);
    return errors.base.num_warnings != 0;
}
