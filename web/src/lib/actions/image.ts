// What can be done to an image.
import { call } from '../api/client';
import type { Image } from '../api/types';
import type { Action } from './action';

export function imageActions(image: Image): Action[] {
  const name = image.metadata.name;
  return [
    {
      id: 'delete',
      label: 'Delete',
      icon: 'delete',
      danger: true,
      cli: `gantry image delete ${name}`,
      call: call('DELETE', '/v1/images/{name}', { params: { path: { name } } }),
      ask: `Image ${name} and its file are deleted. Refused while a VM stands on it.`,
      asked: `Deletion of image ${name} is under way`,
    },
  ];
}
