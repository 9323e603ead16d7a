// What a step of decode computes, from the number of tokens that each sequence has in the cache.
// One new token a row; a row with a negative length is empty and stores nothing.
//
//   lengths        [num_rows]              int32, counted up by one in place
//   block_tables   [num_rows, max_blocks]  int32
//   positions      [num_rows]              int32, of the new token: the length before
//   rope_rows      [num_rows]              int32, positions past rope_from; 0 if that is negative
//   slot_mapping   [num_rows]              int32, where the token's K and V go; -1 in empty rows
//   context_lens   [num_rows]              int32, the length after; 1 in empty rows
//
//   grid    ceil(num_rows / 128) blocks
//   block   128 threads; a thread owns a row
//   memory  negligible
//   needs   lengths < max_blocks * block_size

__global__ void begin_decode(int* lengths, const int* block_tables, int* positions, int* rope_rows,
                             int* slot_mapping, int* context_lens, int num_rows, int max_blocks,
                             int block_size, int rope_from) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= num_rows) return;
  const bool is_empty = lengths[row] < 0;
  const int position = is_empty ? 0 : lengths[row];
  const int block = block_tables[(size_t)row * max_blocks + position / block_size];
  positions[row] = position;
  rope_rows[row] = rope_from < 0 ? 0 : max(0, position + 1 - rope_from);
  slot_mapping[row] = is_empty ? -1 : block * block_size + position % block_size;
  context_lens[row] = position + 1;
  if (!is_empty) lengths[row] = position + 1;
}
