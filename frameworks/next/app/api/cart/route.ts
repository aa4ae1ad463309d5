import { session } from 'keepsake'
import { saving } from '../../../sessions'

export const GET = saving(async (request: Request) => {
  const s = await session(request)
  return Response.json({ owner: s.owner ?? null, ...s.fields })
})

export const POST = saving(async (request: Request) => {
  const s = await session<{ cart: readonly string[] }>(request)
  const item = new URL(request.url).searchParams.get('item') ?? ''
  s.update('cart', (cart = []) => [...cart, item])
  return Response.json({})
})
