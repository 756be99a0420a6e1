// What Python hands over: structures of pointers and 64-bit integers. ../interface.py has the same; when it loads this
// library it compares the two descriptions, names and places, and refuses another one.
//
// Tensors are float32, one byte a winner. Images and maps have channels last, [n][y][x][c]; weights and their gradients are
// contiguous, [out][in][y][x]. All are dense.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

namespace verydeep {

// Counts up whenever what a field means changes, or what a function does with it: descriptions do not show that.
constexpr int64_t ABI = 2;

// A 3x3 convolution with padding 1. `winner` may be null: then nothing is kept for a backward pass.
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
  FIELD(int64_t, tiles)  /* of a block */                                                    \
  FIELD(int64_t, shared) /* all threads on one block, or a block a thread; as in choice.py */ \
  FIELD(int64_t, threads)

// Its gradients. `output` is the convolution's after the ReLU, or null where `winner` says where the pooling's gradient
// goes, or where both are null `gradient` is taken as it is. Sizes are those of the convolution.
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

// A fully connected layer at each position of a map where its kernel fits; y [position][out].
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

// A layer, or two in one, for some images: a step of a program.
#define VERYDEEP_CALL(FIELD)                                                      \
  FIELD(int64_t, kind)  /* see Kind */                                            \
  FIELD(int64_t, layer) /* its number, that of the first of a pair */             \
  FIELD(int64_t, source) /* which memory its input lies in, see Place */           \
  FIELD(int64_t, source_at) /* after how many floats */                           \
  FIELD(int64_t, to)                                                              \
  FIELD(int64_t, to_at)                                                           \
  FIELD(int64_t, images)                                                          \
  FIELD(int64_t, height) /* of its input, as the width */                         \
  FIELD(int64_t, width)                                                           \
  FIELD(int64_t, in)                                                              \
  FIELD(int64_t, between) /* channels of the map within a pair */                 \
  FIELD(int64_t, out)                                                             \
  FIELD(int64_t, rectify)                                                         \
  FIELD(int64_t, pool)                                                            \
  FIELD(int64_t, tiles)                                                           \
  FIELD(int64_t, shared)

// Layers that follow one another, as schedule.py has put their calls in order.
#define VERYDEEP_PROGRAM(FIELD)                                                         \
  FIELD(const Call*, calls)                                                             \
  FIELD(const float* const*, parameters) /* weights and bias of each layer */           \
  FIELD(const float*, x)                                                                \
  FIELD(float*, y)                                                                      \
  FIELD(float*, workspace) /* or null for one that this thread keeps */                 \
  FIELD(int64_t, count)    /* of the calls */                                           \
  FIELD(int64_t, layers)                                                                \
  FIELD(int64_t, inputs) /* floats of x, and so on */                                   \
  FIELD(int64_t, outputs)                                                               \
  FIELD(int64_t, floats) /* of the workspace */                                         \
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

// A line for each of these: "Call 128: kind integer 0, layer integer 8, .." with sizes and places in bytes.
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
