/* A camera that is not there: preloaded, it answers Video4Linux for /dev/video0, so that OpenCV's own V4L2
 * code opens it, maps buffers and streams. Frames are YUYV, 64x48, grey, with luma 16 + (number % 200).
 * After it was unplugged and closed it can be opened again: plugged in once more, it counts frames from 0.
 *
 * SHIM_PERIOD_US   microseconds from frame to frame (default 20000)
 * SHIM_UNPLUG_AT   after this many frames the device is gone (ENODEV)
 * SHIM_AWAY        it takes so many attempts to open it (ENOENT) before it is there again (default 0)
 * SHIM_SMALLER     set: plugged in for the second, fourth, ... time it gives 32x24
 * SHIM_STALL_AT    after this many frames none arrives any more
 * SHIM_RANGES      sizes and rates are listed as ranges
 *
 * Closing the device writes "shim: closed" to stderr, so that a test can see that it was released.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

enum { SLOT_BYTES = 8192, SLOTS = 4 };

static int device = -1;               /* a memfd stands for the device */
static unsigned width = 64, height = 48;
static long plugged_in, attempts;     /* how often it was opened; how often in vain since it went */
static unsigned char *memory;         /* SLOTS slots of SLOT_BYTES */
static unsigned queued[SLOTS], head, waiting; /* buffers OpenCV has handed over, oldest first */
static long frame_number;
static struct timespec next_frame;

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

static unsigned frame_bytes(void) { return width * height * 2; }

static int unplugged(void) {
    long at = setting("SHIM_UNPLUG_AT", -1);
    return at >= 0 && frame_number >= at;
}

static int stalled(void) {
    long at = setting("SHIM_STALL_AT", -1);
    return at >= 0 && frame_number >= at;
}

static int plug_in(void) {
    if (device >= 0) {
        errno = EBUSY;
        return -1;
    }
    if (plugged_in && attempts++ < setting("SHIM_AWAY", 0)) {
        errno = ENOENT;
        return -1;
    }
    int smaller = getenv("SHIM_SMALLER") && plugged_in % 2;
    width = smaller ? 32 : 64;
    height = smaller ? 24 : 48;
    plugged_in++;
    attempts = 0;
    device = memfd_create("camera", 0);
    if (device < 0 || ftruncate(device, SLOTS * SLOT_BYTES) != 0) return -1;
    memory = mmap(NULL, SLOTS * SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
    frame_number = 0;
    return device;
}

static int is_camera(const char *path) { return path && strcmp(path, "/dev/video0") == 0; }

static int real_open(const char *symbol, const char *path, int flags, mode_t mode) {
    int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, symbol);
    return next(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return is_camera(path) ? plug_in() : real_open("open", path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return is_camera(path) ? plug_in() : real_open("open64", path, flags, mode);
}

int close(int fd) {
    if (fd >= 0 && fd == device) {
        static const char text[] = "shim: closed\n";
        device = -1;
        munmap(memory, SLOTS * SLOT_BYTES);
        if (write(STDERR_FILENO, text, sizeof text - 1) < 0) return -1;
    }
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "close");
    return next(fd);
}

/* OpenCV waits for a frame with select(); the memfd is always readable, so time is kept here. */
static int wait_for_frame(long timeout_us) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long until = (next_frame.tv_sec - now.tv_sec) * 1000000 + (next_frame.tv_nsec - now.tv_nsec) / 1000;
    if (stalled() || until > timeout_us) {
        usleep(timeout_us);
        return 0;
    }
    if (until > 0) usleep(until);
    return 1;
}

int select(int count, fd_set *readable, fd_set *writable, fd_set *broken, struct timeval *timeout) {
    if (device >= 0 && readable && count > device && FD_ISSET(device, readable)) {
        int ready = wait_for_frame(timeout ? timeout->tv_sec * 1000000 + timeout->tv_usec : 1000000000);
        if (!ready) FD_ZERO(readable);
        return ready;
    }
    int (*next)(int, fd_set *, fd_set *, fd_set *, struct timeval *) =
        (int (*)(int, fd_set *, fd_set *, fd_set *, struct timeval *))dlsym(RTLD_NEXT, "select");
    return next(count, readable, writable, broken, timeout);
}

static int fail(int number) {
    errno = number;
    return -1;
}

static void describe(struct v4l2_buffer *buffer, unsigned slot) {
    buffer->index = slot;
    buffer->type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    buffer->memory = V4L2_MEMORY_MMAP;
    buffer->length = SLOT_BYTES;
    buffer->m.offset = slot * SLOT_BYTES;
    buffer->flags = V4L2_BUF_FLAG_MAPPED | V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
}

static int dequeue(struct v4l2_buffer *buffer) {
    if (unplugged()) return fail(ENODEV);
    if (!waiting || !wait_for_frame(0)) return fail(EAGAIN);
    unsigned slot = queued[head];
    head = (head + 1) % SLOTS;
    waiting--;
    unsigned char *pixels = memory + (size_t)slot * SLOT_BYTES;
    for (unsigned i = 0; i < frame_bytes(); i += 2) {
        pixels[i] = (unsigned char)(16 + frame_number % 200);
        pixels[i + 1] = 128;
    }
    describe(buffer, slot);
    buffer->bytesused = frame_bytes();
    buffer->sequence = (unsigned)frame_number++;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    buffer->timestamp.tv_sec = now.tv_sec;
    buffer->timestamp.tv_usec = now.tv_nsec / 1000;
    long period_ns = setting("SHIM_PERIOD_US", 20000) * 1000;
    next_frame.tv_sec = now.tv_sec + (now.tv_nsec + period_ns) / 1000000000;
    next_frame.tv_nsec = (now.tv_nsec + period_ns) % 1000000000;
    return 0;
}

static int answer(unsigned long request, void *argument) {
    switch ((unsigned)request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *capability = argument;
        memset(capability, 0, sizeof *capability);
        strcpy((char *)capability->driver, "shim");
        strcpy((char *)capability->card, "test camera");
        capability->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        capability->capabilities = capability->device_caps | V4L2_CAP_DEVICE_CAPS;
        return 0;
    }
    case VIDIOC_ENUMINPUT: {
        struct v4l2_input *input = argument;
        if (input->index) return fail(EINVAL);
        memset(input, 0, sizeof *input);
        input->type = V4L2_INPUT_TYPE_CAMERA;
        return 0;
    }
    case VIDIOC_G_INPUT: *(int *)argument = 0; return 0;
    case VIDIOC_S_INPUT: return 0;
    case VIDIOC_ENUM_FMT: {
        struct v4l2_fmtdesc *format = argument;
        if (format->index) return fail(EINVAL);
        format->pixelformat = V4L2_PIX_FMT_YUYV;
        return 0;
    }
    case VIDIOC_ENUM_FRAMESIZES: {
        struct v4l2_frmsizeenum *size = argument;
        if (size->index || size->pixel_format != V4L2_PIX_FMT_YUYV) return fail(EINVAL);
        if (setting("SHIM_RANGES", 0)) {
            size->type = V4L2_FRMSIZE_TYPE_STEPWISE;
            size->stepwise = (struct v4l2_frmsize_stepwise){16, width, 16, 12, height, 12};
            return 0;
        }
        size->type = V4L2_FRMSIZE_TYPE_DISCRETE;
        size->discrete.width = width;
        size->discrete.height = height;
        return 0;
    }
    case VIDIOC_ENUM_FRAMEINTERVALS: {
        struct v4l2_frmivalenum *interval = argument;
        if (interval->index > 1 || interval->width != width || interval->height != height) return fail(EINVAL);
        unsigned fps = (unsigned)(1000000 / setting("SHIM_PERIOD_US", 20000));
        if (setting("SHIM_RANGES", 0)) {
            interval->type = V4L2_FRMIVAL_TYPE_CONTINUOUS;
            interval->stepwise = (struct v4l2_frmival_stepwise){{1, fps}, {2, fps}, {1, 1000}};
            return 0;
        }
        interval->type = V4L2_FRMIVAL_TYPE_DISCRETE;
        interval->discrete.numerator = 1 + interval->index;
        interval->discrete.denominator = fps;
        return 0;
    }
    case VIDIOC_G_FMT:
    case VIDIOC_S_FMT:
    case VIDIOC_TRY_FMT: {
        struct v4l2_format *format = argument;
        if (format->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return fail(EINVAL);
        memset(&format->fmt.pix, 0, sizeof format->fmt.pix);
        format->fmt.pix.width = width;
        format->fmt.pix.height = height;
        format->fmt.pix.pixelformat = V4L2_PIX_FMT_YUYV;
        format->fmt.pix.field = V4L2_FIELD_NONE;
        format->fmt.pix.bytesperline = width * 2;
        format->fmt.pix.sizeimage = frame_bytes();
        format->fmt.pix.colorspace = V4L2_COLORSPACE_SRGB;
        return 0;
    }
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM: {
        struct v4l2_streamparm *parameters = argument;
        parameters->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
        parameters->parm.capture.timeperframe.numerator = 1;
        parameters->parm.capture.timeperframe.denominator =
            (unsigned)(1000000 / setting("SHIM_PERIOD_US", 20000));
        return 0;
    }
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *buffers = argument;
        if (buffers->count > SLOTS) buffers->count = SLOTS;
        buffers->capabilities = 0;
        head = waiting = 0;
        return 0;
    }
    case VIDIOC_QUERYBUF: describe(argument, ((struct v4l2_buffer *)argument)->index); return 0;
    case VIDIOC_QBUF:
        if (unplugged()) return fail(ENODEV);
        queued[(head + waiting++) % SLOTS] = ((struct v4l2_buffer *)argument)->index;
        return 0;
    case VIDIOC_DQBUF: return dequeue(argument);
    case VIDIOC_STREAMON: clock_gettime(CLOCK_MONOTONIC, &next_frame); return 0;
    case VIDIOC_STREAMOFF: head = waiting = 0; return 0;
    default: return fail(EINVAL); /* controls: none */
    }
}

int ioctl(int fd, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (fd >= 0 && fd == device) return answer(request, argument);
    int (*next)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    return next(fd, request, argument);
}
