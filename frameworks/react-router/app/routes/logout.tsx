import { readForm, session } from 'keepsake'
import { redirect } from 'react-router'
import type { Route } from './+types/logout'

export const action = async (args: Route.ActionArgs) => {
  const form = await readForm(args)
  if (form.ok) (await session(args.context)).invalidate()
  return redirect('/')
}
