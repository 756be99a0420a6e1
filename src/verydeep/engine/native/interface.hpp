// The structures that Python passes: pointers and 64-bit integers. ../interface.py declares the same. When Python loads
// this library it compares the two descriptions (names, kinds and offsets) and refuses a library that differs.
//
// Tensors are float32, winners one byte each. Images and maps have channels last, [n][y][x][c]; weights and their
// gradients are contiguous, [out][in][y][x]. All are dense.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

namespace verydeep {

// To be increased whenever the meaning of a field changes, or what a function does with it: descriptions do not show that.
constexpr int64_t ABI = 2;

// A 3x3 convolution with padding 1. If `winner` is null, nothing is kept for a backward pass.
#define VERYDEEP_CONVOLUTION(FIELD)                                                          \
  FIELD(const float*, x)                                                                     \
  FIELD(const float*, weights)                                                               \
  FIELD(const float*, bias)                                                                  \
  FIELD(float*, y)                                                                           \
  FIELD(uint8_t*, winner)                                                                    \
  FIELD(int64_t, images)                                                                     \
  FIELD(int64_t, height)                                                                     \
  FIELD(int64_t, width)                                                                      \
  FIELD(int64_t, in)                                                                         \
  FIELD(int64_t, out)                                                                        \
  FIELD(int64_t, rectify)                                                                    \
  FIELD(int64_t, pool)                                                                       \
  FIELD(int64_t, direct) /* without transforms */                                            \
  FIELD(int64_t, tiles)  /* per block */                                                     \
  FIELD(int64_t, shared) /* all threads on one block, or one block per thread (choice.py) */ \
  FIELD(int64_t, threads)

// Its gradients. After a ReLU alone, `output` is the ReLU's output; after a pooling, `winner` says where the gradient of
// each output goes. At least one of the two is null; if both are, `gradient` is used as it is. Sizes are those of the
// convolution.
#define VERYDEEP_GRADIENTS(FIELD)  \
  FIELD(const float*, gradient)    \
  FIELD(const float*, output)      \
  FIELD(const uint8_t*, winner)    \
  FIELD(const float*, x)           \
  FIELD(const float*, weights)     \
  FIELD(float*, of_x)              \
  FIELD(float*, of_weights)        \
  FIELD(float*, of_bias)           \
  FIELD(int64_t, images)           \
  FIELD(int64_t, height)           \
  FIELD(int64_t, width)            \
  FIELD(int64_t, in)               \
  FIELD(int64_t, out)              \
  FIELD(int64_t, direct)           \
  FIELD(int64_t, tiles)            \
  FIELD(int64_t, shared)           \
  FIELD(int64_t, threads)

// A fully connected layer, applied at each position of a map where its kernel fits; y is [position][out].
#define VERYDEEP_FULLY_CONNECTED(FIELD) \
  FIELD(const float*, x)                \
  FIELD(const float*, weights)          \
  FIELD(const float*, bias)             \
  FIELD(float*, y)                      \
  FIELD(int64_t, images)                \
  FIELD(int64_t, height)                \
  FIELD(int64_t, width)                 \
  FIELD(int64_t, in)                    \
  FIELD(int64_t, out)                   \
  FIELD(int64_t, kernel_height)         \
  FIELD(int64_t, kernel_width)          \
  FIELD(int64_t, rectify)               \
  FIELD(int64_t, threads)

// A layer, or two fused layers, for some images: one step of a program.
#define VERYDEEP_CALL(FIELD)                                                      \
  FIELD(int64_t, kind)  /* see Kind */                                            \
  FIELD(int64_t, layer) /* its number, or that of the first of a pair */          \
  FIELD(int64_t, source) /* memory of the input, see Place */                     \
  FIELD(int64_t, source_at) /* offset in floats */                                \
  FIELD(int64_t, to)                                                              \
  FIELD(int64_t, to_at)                                                           \
  FIELD(int64_t, images)                                                          \
  FIELD(int64_t, height) /* of the input, and likewise the width */               \
  FIELD(int64_t, width)                                                           \
  FIELD(int64_t, in)                                                              \
  FIELD(int64_t, between) /* channels of the map between a pair's layers */       \
  FIELD(int64_t, out)                                                             \
  FIELD(int64_t, rectify)                                                         \
  FIELD(int64_t, pool)                                                            \
  FIELD(int64_t, tiles)                                                           \
  FIELD(int64_t, shared)

// Consecutive layers, as calls in the order that schedule.py has planned.
#define VERYDEEP_PROGRAM(FIELD)                                                         \
  FIELD(const Call*, calls)                                                             \
  FIELD(const float* const*, parameters) /* weights and bias of each layer */           \
  FIELD(const float*, x)                                                                \
  FIELD(float*, y)                                                                      \
  FIELD(float*, workspace) /* null: this thread's own, kept from call to call */        \
  FIELD(int64_t, count)    /* of calls */                                               \
  FIELD(int64_t, layers)                                                                \
  FIELD(int64_t, inputs)  /* floats in x */                                             \
  FIELD(int64_t, outputs) /* floats in y */                                             \
  FIELD(int64_t, floats)  /* in the workspace */                                        \
  FIELD(int64_t, threads)

#define VERYDEEP_KINDS(NAME) NAME(WINOGRAD) NAME(DIRECT) NAME(PAIR) NAME(WHOLE)
#define VERYDEEP_PLACES(NAME) NAME(INPUT) NAME(WORKSPACE) NAME(OUTPUT)

#define VERYDEEP_MEMBER(type, name) type name;
#define VERYDEEP_ENUMERATOR(name) name,

struct Convolution { VERYDEEP_CONVOLUTION(VERYDEEP_MEMBER) };
struct Gradients { VERYDEEP_GRADIENTS(VERYDEEP_MEMBER) };
struct FullyConnected { VERYDEEP_FULLY_CONNECTED(VERYDEEP_MEMBER) };
struct Call { VERYDEEP_CALL(VERYDEEP_MEMBER) };
struct Program { VERYDEEP_PROGRAM(VERYDEEP_MEMBER) };
enum Kind : int64_t { VERYDEEP_KINDS(VERYDEEP_ENUMERATOR) };
enum Place : int64_t { VERYDEEP_PLACES(VERYDEEP_ENUMERATOR) };

// One line per structure, such as "Call 128: kind integer 0, layer integer 8, ...", with sizes and offsets in bytes.
inline std::string description() {
  std::string text;
  const auto field = [&](const char* name, bool pointer, size_t at) {
    text += (text.back() == ':' ? " " : ", ") + std::string(name) + (pointer ? " pointer " : " integer ") + std::to_string(at);
  };
  const auto begin = [&](const char* name, size_t size) { text += name + (" " + std::to_string(size)) + ":"; };
#define VERYDEEP_FIELD(type, name) field(#name, std::is_pointer<type>::value, offsetof(Described, name));
#define VERYDEEP_STRUCTURE(name, FIELDS) \
  {                                      \
    using Described = name;              \
    begin(#name, sizeof(Described));     \
    FIELDS(VERYDEEP_FIELD) text += "\n"; \
  }
#define VERYDEEP_WORD(name) " " #name
  VERYDEEP_STRUCTURE(Convolution, VERYDEEP_CONVOLUTION)
  VERYDEEP_STRUCTURE(Gradients, VERYDEEP_GRADIENTS)
  VERYDEEP_STRUCTURE(FullyConnected, VERYDEEP_FULLY_CONNECTED)
  VERYDEEP_STRUCTURE(Call, VERYDEEP_CALL)
  VERYDEEP_STRUCTURE(Program, VERYDEEP_PROGRAM)
  return text + "kinds:" VERYDEEP_KINDS(VERYDEEP_WORD) "\nplaces:" VERYDEEP_PLACES(VERYDEEP_WORD) "\n";
}

}  // namespace verydeep
